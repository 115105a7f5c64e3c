"""What an optimisation did: as data, as tables for the terminal, as one HTML page."""

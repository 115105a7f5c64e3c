"""How many channels each group loses, and which."""

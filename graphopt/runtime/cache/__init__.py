"""The on-disk cache of a model's manifest and executables, so that its next session opens at once."""

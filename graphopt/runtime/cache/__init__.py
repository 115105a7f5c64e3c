"""The manifest of a model and its executables, kept on disk so that the next session opens at once."""

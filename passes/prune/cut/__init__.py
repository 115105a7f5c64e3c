"""Channels removed from a model: constants sliced, sizes corrected, types inferred anew."""

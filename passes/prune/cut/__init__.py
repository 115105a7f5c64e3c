"""Removal of channels from a model: constants sliced, sizes corrected, types inferred anew."""

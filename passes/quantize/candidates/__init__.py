"""Candidates: the units of a model that integers could run, with calibrated ranges, grids and codes."""

"""Slopes of a model's results, projected on changes of its values: all changes in one backward pass a direction."""

"""Projections of a model's gradients on changes of its values: one backward pass per direction covers all changes."""

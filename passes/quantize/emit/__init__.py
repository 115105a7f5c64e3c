"""Emit an assignment of precisions as a model: in QDQ form, dynamic form, or with weights stored as integers."""

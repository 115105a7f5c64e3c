"""From an assignment of precisions to a model in QDQ form, dynamic form, or with weights stored as integers."""

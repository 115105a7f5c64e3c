"""What could run on integers in a model, and what calibration knows of it."""

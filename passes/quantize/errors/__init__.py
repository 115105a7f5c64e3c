"""What rounding costs a model's results: of single units, predicted or measured, of inputs, and by elements."""

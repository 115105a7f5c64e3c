"""A linear layer seen once: rows of weights times patches of its input, and the moments of both."""

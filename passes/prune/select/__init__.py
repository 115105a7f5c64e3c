"""Selection: the number of channels that each group keeps, and which ones."""

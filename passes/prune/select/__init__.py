"""Selection: how many channels each group keeps, and which."""

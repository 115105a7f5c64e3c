"""Generation of text: a decoder's inputs by their roles, its caches between steps, the choice of the next token."""

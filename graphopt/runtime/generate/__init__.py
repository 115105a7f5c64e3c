"""Text generation: the roles of a decoder's inputs, its caches between steps, the choice of the next token."""

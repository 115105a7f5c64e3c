"""What is kept on disk of a model, so that its next session opens at once."""

"""Work on the weights of a model while it is quantized, too slow in numpy: its arrays would be read many times."""

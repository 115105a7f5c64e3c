"""Recovery without training: layers refitted by least squares to the outputs of the original."""

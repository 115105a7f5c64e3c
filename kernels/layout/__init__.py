"""Data movement: copies, shuffles, transpositions, resizing, NCHW planes to NHWC pixels and back."""

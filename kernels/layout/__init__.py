"""Moving elements without computing: copies, shuffles, transpositions, resizing, NCHW planes to NHWC pixels."""

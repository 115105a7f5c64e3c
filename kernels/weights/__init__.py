"""Work on a model's weights during quantization that would take numpy many passes over the arrays."""

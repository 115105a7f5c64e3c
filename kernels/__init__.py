"""Int8 kernels: arrays in, arrays out; they know no graph."""

if not __name__.startswith("graphopt."):
    raise ImportError("import graphopt.kernels, not kernels: the top-level folder is a second copy of it")

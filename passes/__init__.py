"""Every rewrite, one file each; this file is the schedule: the only place where order is written."""

if not __name__.startswith("graphopt."):
    raise ImportError("import graphopt.passes, not passes: the top-level folder is a second copy of it")

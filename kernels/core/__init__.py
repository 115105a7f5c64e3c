"""The path from a declared kernel to a running program: compiler, object cache, levels, steps, struct layouts."""

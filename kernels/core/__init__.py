"""From a declared kernel to a running program: compiler, object cache, instruction sets, steps, struct layouts."""

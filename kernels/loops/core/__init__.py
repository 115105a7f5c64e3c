"""Code shared by loops: pointers and atomics, scalar arithmetic, reductions; and the interpreter of programs."""

"""What loops share: pointers and atomics, arithmetic of one element, reductions, the interpreter of programs."""

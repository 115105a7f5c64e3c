"""Generators of LLVM IR for instructions that a compiler does not choose by itself. Imported only to compile."""

"""Generators of LLVM IR: what a compiler will not choose by itself. Imported only to compile."""

"""Generators of LLVM IR for instructions that compilers do not select themselves. Imported only to compile."""

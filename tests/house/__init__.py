"""The house that the code lives in: floors, rooms, the rules that keep them, and numbers that must have a source.

Everything is read off the tree; `declared` alone is written by hand. `python -m tests.house` prints the house, and
tests/test_architecture.py asserts the rules.
"""

"""`python -m graphopt` is the command line."""

from .cli import main

main()

"""Pages of the documentation that are generated: `python -m tests.docs` writes them, the tests keep them current."""

"""What in the documentation is made from the code: `python -m tests.docs` writes it, the tests keep it current."""

"""A corpus of unseen models: no part of graphopt was tuned on them; exported on the spot by torch and sklearn."""

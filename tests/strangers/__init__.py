"""A corpus of strangers: models that no part of graphopt was tuned on, exported on the spot by torch and sklearn."""

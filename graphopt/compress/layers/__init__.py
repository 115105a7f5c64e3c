"""Linear layers in one form, rows of weights times patches of input, with moments and regressions of both."""

"""The command line: words people guess, files it must not replace, what it says to whom."""

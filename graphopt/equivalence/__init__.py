"""Proof by running: does one model compute what another does, and would the comparison have noticed if not?"""

from .comparison import compare
from .metrics import cosine, sqnr_db, top1_agreement
from .result import Comparison, OutputComparison
from .synthesis import read_feeds, synthesise

__all__ = [
    "Comparison",
    "OutputComparison",
    "compare",
    "cosine",
    "read_feeds",
    "sqnr_db",
    "synthesise",
    "top1_agreement",
]

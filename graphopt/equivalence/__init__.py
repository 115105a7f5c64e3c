"""Validation by running two models: equality of their results, with the power of the comparison."""

from .comparison import compare
from .feeds import FeedData, FeedReader, Feeds, read_feeds
from .metrics import cosine, sqnr_db, top1_agreement
from .result import Comparison, OutputComparison
from .synthesis import synthesise

__all__ = [
    "Comparison", "FeedData", "FeedReader", "Feeds", "OutputComparison", "compare", "cosine", "read_feeds",
    "sqnr_db", "synthesise", "top1_agreement",
]  # fmt: skip

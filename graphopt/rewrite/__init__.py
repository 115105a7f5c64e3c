"""Rewriting: patterns, rules, the context that records rewrites, and the worklist that runs rules to a fixpoint."""

from ..errors import Declined
from .builder import Builder, origins_of
from .context import Context, Erasure, RewriteLog, Rewritten
from .pattern import Leaf, Match, Mismatch, OpPattern, any_value, constant, match, op, same, weight
from .rule import Attempt, Decline, Rule, explain, rule, spellings
from .worklist import QUANTIZERS, NoFixpoint, apply_rules, retype

__all__ = [
    "QUANTIZERS", "Attempt", "Builder", "Context", "Decline", "Declined", "Erasure", "Leaf", "Match",
    "Mismatch", "NoFixpoint", "OpPattern", "RewriteLog", "Rewritten", "Rule", "any_value", "apply_rules",
    "constant", "explain", "match", "op", "origins_of", "retype", "rule", "same", "spellings", "weight",
]  # fmt: skip

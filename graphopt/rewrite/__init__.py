"""Rewriting: patterns, rules, and the driver that runs rules to a fixpoint."""

from ..errors import Declined
from .builder import Builder, origins_of
from .context import Context, RewriteLog
from .pattern import Leaf, Match, OpPattern, any_value, constant, match, op, same, weight
from .rule import Decline, Rule, explain, rule, spellings
from .worklist import QUANTIZERS, NoFixpoint, apply_rules, retype

__all__ = [
    "QUANTIZERS",
    "Builder",
    "Context",
    "Decline",
    "Declined",
    "Leaf",
    "Match",
    "NoFixpoint",
    "OpPattern",
    "RewriteLog",
    "Rule",
    "any_value",
    "apply_rules",
    "constant",
    "explain",
    "match",
    "op",
    "origins_of",
    "retype",
    "rule",
    "same",
    "spellings",
    "weight",
]

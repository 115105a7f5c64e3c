"""Passes, the registry that orders them, and the driver that runs, checks and rolls back."""

from .driver import (
    Blame,
    Check,
    CheckPolicy,
    Effect,
    OnBlame,
    Outcome,
    PassError,
    Progress,
    RolledBack,
    Verdict,
    constant_bytes,
    count_nodes,
    run,
    run_pass,
)
from .passes import Pass, as_pass, graph_pass, rule_pass
from .registry import PassLike, Registry, current, entry_points, listed, register_pass, rule

__all__ = [
    "Blame", "Check", "CheckPolicy", "Effect", "OnBlame", "Outcome", "Pass", "PassError", "PassLike",
    "Progress", "Registry", "RolledBack", "Verdict", "as_pass", "constant_bytes", "count_nodes", "current",
    "entry_points", "graph_pass", "listed", "register_pass", "rule", "rule_pass", "run", "run_pass",
]  # fmt: skip

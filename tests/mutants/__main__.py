"""Seeded mutants of our own rules: `python -m tests.mutants [--seed 0] [--mutants 20]`.

Draws mutants until so many of them change a result, prints what became of each, and whether bisection named them.
"""

from __future__ import annotations

import argparse
import sys

from .trials import GRAPHS, Verdict, all_mutants, drawn, judge, table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mutants", type=int, default=20)
    parser.add_argument("--graphs", type=int, default=GRAPHS)
    parser.add_argument("--all-passes", action="store_true", help="also functions that only whole-graph passes use")
    options = parser.parse_args()
    verdicts: list[Verdict] = []
    telling: list[Verdict] = []
    for mutant in drawn(options.seed, 100 * options.mutants, not options.all_passes):
        verdict = judge(mutant, options.graphs)
        verdicts.append(verdict)
        print(table([verdict]), flush=True)
        telling += [verdict] if verdict.status in ("changes", "unnoticed") else []
        if len(telling) == options.mutants:
            break
    named = [v for v in telling if v.named]
    sizes = sorted(v.nodes for v in named if v.nodes is not None)
    counts = {s: sum(v.status == s for v in verdicts) for s in ("changes", "unnoticed", "raises", "same")}
    small = sum(n <= 10 for n in sizes)
    print(f"\nseed {options.seed}, of {len(all_mutants())} possible mutants: {counts}")
    print(f"named: {len(named)} of {len(telling)}; repros: {len(sizes)}, of at most 10 nodes: {small}")
    print(f"repro sizes: {sizes}")
    return 0 if len(named) == len(telling) else 1


if __name__ == "__main__":
    sys.exit(main())

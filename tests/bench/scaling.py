"""Cost per node on generated models of 1k, 10k and 100k nodes: `python -m tests.bench.scaling`.

CPU time of the process, which other programs disturb least; the best of five for the smallest, one run for the largest.
"""

from __future__ import annotations

import time

import graphopt
from tests import generators

RUNS = {1_000: 5, 10_000: 3, 100_000: 1}


def main() -> None:
    graphopt.optimize(generators.chain(300), validate=False)  # imports and caches are not what is measured
    base = None
    for nodes, runs in RUNS.items():
        proto = generators.chain(nodes)
        times = []
        for _ in range(runs):
            start = time.process_time()
            result = graphopt.optimize(proto, validate=False)
            times.append((time.process_time() - start) / nodes)
        base = base or min(times)
        each, after = min(times), result.report.after.nodes
        print(f"{nodes:7d} nodes -> {after:6d}: {each * 1e6:6.1f} us a node, {each / base:.2f}x of the smallest")


if __name__ == "__main__":
    main()

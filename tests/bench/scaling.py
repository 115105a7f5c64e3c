"""Cost per node on generated models of 1k, 10k and 100k nodes: `python -m tests.bench.scaling`."""

from __future__ import annotations

import time

import graphopt
from tests import generators


def main() -> None:
    base = None
    for nodes in (1_000, 10_000, 100_000):
        proto = generators.chain(nodes)
        start = time.perf_counter()
        result = graphopt.optimize(proto, validate=False)
        _ = result.model
        each = (time.perf_counter() - start) / nodes
        base = base or each
        after = result.report.after.nodes
        print(f"{nodes:7d} nodes -> {after:6d}: {each * 1e6:7.1f} us a node, {each / base:.2f}x of the smallest")


if __name__ == "__main__":
    main()

"""Time and size of the HTML report: `python -m tests.bench.report [names]`.

Seconds are CPU time without latency measurement, with provenance derived before; size is the file's.
"""

from __future__ import annotations

import argparse
import time

import graphopt
from graphopt.measure import show_bytes
from tests import zoo


def main() -> None:
    """Print a row a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    print(f"{'model':28}{'nodes':>8}{'trace s':>10}{'page s':>10}{'size':>12}")
    for name in arguments.names or zoo.names():
        path = zoo.path(name)
        if path is None:
            continue
        report = graphopt.optimize(path, validate=False).report
        assert report.trail is not None
        start = time.process_time()
        assert report.trail.provenance.nodes
        traced = time.process_time()
        size = len(report.to_html(name, seconds=0).encode())
        done = time.process_time()
        nodes = report.before.nodes
        print(f"{name:28}{nodes:>8}{traced - start:>10.3f}{done - traced:>10.3f}{show_bytes(size):>12}", flush=True)


if __name__ == "__main__":
    main()

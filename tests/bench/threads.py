"""One thread beside two: `python -m tests.bench.threads [names] [--threads 2] [--seconds 4]`.

Sessions of the same file take turns in one process, several runs each, the first of which is not counted: the caches
then hold the other session's weights. No other runtime is loaded, whose spinning threads would take a core from ours.
Medians and bests in milliseconds of wall time, and the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time

from graphopt.runtime import Session
from tests.bench.end_to_end import case

NAMES = (
    "light-resnet50-7bit",
    "light-vgg19-7bit",
    "mobilenetv2-like-7bit",
    "light-shufflenet-7bit",
    "rapidocr-det-7bit",
)
_RUNS = 6  # in a row


def measure(name: str, counts: tuple[int, ...], seconds: float) -> list[list[float]]:
    """Milliseconds of the counted runs, for each number of threads."""
    chosen = case(name)
    feeds = chosen.feeds(0)
    sessions = [Session(chosen.quantized, count, kernels=True) for count in counts]
    taken: list[list[float]] = [[] for _ in counts]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for session, times in zip(sessions, taken):
            for run in range(_RUNS):
                start = time.perf_counter()
                session.run(None, feeds)
                if run:
                    times.append(1e3 * (time.perf_counter() - start))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    for name in arguments.names:
        found = measure(name, (1, arguments.threads), arguments.seconds)
        (one, one_best), (more, more_best) = ((statistics.median(times), min(times)) for times in found)
        print(
            f"{name:24s} 1 thread {one:.2f} (best {one_best:.2f})  {arguments.threads} threads {more:.2f} "
            f"(best {more_best:.2f})  {one / more:.2f}× (best {one_best / more_best:.2f}×)",
            flush=True,
        )


if __name__ == "__main__":
    main()

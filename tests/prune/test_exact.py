"""Removal equals the original whose readers have zeros: on synthetic nets, random networks and the zoo."""

from __future__ import annotations

import pytest

from graphopt.testing import random_graph
from tests import nets, zoo
from tests.prune.oracle import assert_exact
from tests.prune.random_nets import make

PER_TEST = 25


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", [n for n in nets.NAMES if n not in ("loop", "scan")])
def test_synthetic_nets(name, seed):
    assert assert_exact(nets.load(name, seed), seed, 0.3 + 0.3 * seed) > 0


@pytest.mark.parametrize("start", range(0, 200, PER_TEST))
def test_random_networks(start):
    removed = [assert_exact(make(seed), seed, 0.3 if seed % 2 else 0.6) for seed in range(start, start + PER_TEST)]
    assert all(removed)


@pytest.mark.parametrize("start", range(0, 100, PER_TEST))
def test_graphs_of_any_kind(start):
    """Graphs not made for pruning: most have nothing to remove, and none may break."""
    for seed in range(start, start + PER_TEST):
        assert_exact(random_graph(seed), seed, status=("equal", "unverified"))


@zoo.parametrize(
    "rapidocr-det", "rapidocr-cls", "light-shufflenet", "light-squeezenet", "mobilenetv2-like", "silero-sequence",
    "minilm-int8", "smart-turn", "silero-ifless", "romanizer-arabic-decoder", "romanizer-arabic-encoder", "basic-pitch",
)  # fmt: skip
def test_zoo(name):
    import onnx

    assert assert_exact(onnx.load(zoo.path(name)), 0, 0.3, [zoo.feeds(name)]) > 0


@zoo.parametrize("silero-ifless", "romanizer-persian-decoder", "minilm-int8")
def test_zoo_after_optimisation(name):
    import graphopt

    assert assert_exact(graphopt.optimize(zoo.path(name), validate=False).model, 1, 0.5, [zoo.feeds(name)]) > 0

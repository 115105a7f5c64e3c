"""Minimum cuts: the cheapest choice of all, and of several the one in which the fewest leave."""

from __future__ import annotations

from itertools import product

import networkx as nx
import numpy as np

from graphopt.runtime.place.minimum_cut import Choices

Edges = list[tuple[int | None, int | None]]


def choices(gains: list[int], edges: Edges) -> Choices[int]:
    """Items that gain so much by leaving, connected; what has left anyway is None."""
    made: Choices[int] = Choices()
    for item, gain in enumerate(gains):
        made.add(item, stays=max(gain, 0), leaves=max(-gain, 0))
    for one, other in edges:
        made.connect(one, other)
    return made


def cost(away: set[int], gains: list[int], edges: Edges, price: int) -> int:
    """What a choice costs."""
    own = sum(max(-gain, 0) if item in away else max(gain, 0) for item, gain in enumerate(gains))
    return own + price * sum((a is None or a in away) is not (b is None or b in away) for a, b in edges)


def drawn(rng: np.random.Generator, items: int, edges: int) -> tuple[list[int], Edges]:
    """Small whole numbers, so that many choices cost the same; some edges twice."""
    ends = [*range(items), None]
    pairs = [(ends[a], ends[b]) for a, b in rng.integers(0, len(ends), (edges, 2)) if a != b]
    return rng.integers(-4, 5, items).tolist(), pairs


def test_of_all_choices_the_cheapest_is_taken_and_of_several_that_with_the_fewest() -> None:
    rng, ties = np.random.default_rng(0), 0
    for _ in range(60):
        gains, edges = drawn(rng, 7, 9)
        for price in (0, 1, 3):
            every = [{i for i, leaves in enumerate(word) if leaves} for word in product((0, 1), repeat=7)]
            costs = [cost(away, gains, edges, price) for away in every]
            best = [away for away, one in zip(every, costs) if one == min(costs)]
            ties += len(best) > 1
            assert choices(gains, edges).leaving(price) == min(best, key=len)
    assert ties > 20


def test_larger_networks_are_cut_as_networkx_cuts_them() -> None:
    rng, some = np.random.default_rng(1), 0
    for _ in range(12):
        gains, edges = drawn(rng, 120, 200)
        network: nx.DiGraph[object] = nx.DiGraph()
        for item, gain in enumerate(gains):
            network.add_edge("stay", item, capacity=max(-gain, 0))
            network.add_edge(item, "left", capacity=max(gain, 0))
        for one, other in edges:
            ends = ["left" if end is None else end for end in (one, other)]
            for a, b in (ends, ends[::-1]):
                held = network.edges[a, b]["capacity"] if network.has_edge(a, b) else 0
                network.add_edge(a, b, capacity=held + 2)
        _, (_, away) = nx.minimum_cut(network, "stay", "left")
        found = choices(gains, edges).leaving(2)
        some += 0 < len(found) < 120
        assert found == away - {"left"}
    assert some


def test_one_choice_serves_many_prices() -> None:
    made = choices([3, -1, 3], [(0, 1), (1, 2)])
    assert [made.leaving(price) for price in (0, 1, 0)] == [{0, 2}, {0, 1, 2}, {0, 2}]

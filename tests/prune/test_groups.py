"""Channel groups, and fixed layers with their reasons, on graphs small enough to know the answer."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from graphopt import cli, onnx_io
from graphopt.analysis.channels import NEIGHBOURS, STATISTICS, find_channels
from graphopt.analysis.channels.alignment import Block, align
from graphopt.analysis.channels.elements import Elements
from graphopt.passes.prune.cut.remove import unshare
from tests import generators, nets
from tests.passes.harness import lift


def groups(text: str, opset: int = 17, **weights: np.ndarray) -> list[tuple[int, list[str], list[str]]]:
    """Size, makers and readers of each group; layers by the name of their output."""
    facts = find_channels(lift(text, opset, **weights))
    return [
        (g.size, [m.node.output.name for m in g.makers], [r.node.output.name for r in g.readers]) for g in facts.groups
    ]


def held(text: str, opset: int = 17, **weights: np.ndarray) -> dict[str, str]:
    return {h.node.output.name: h.reason for h in find_channels(lift(text, opset, **weights)).fixed}


def test_a_chain_has_one_group_a_layer():
    assert groups("""
        m (float[N,3,8,8] x) => (float[N,4,8,8] z) <float[8,3,1,1] a, float[8] b, float[4,8,1,1] c>
        { h = Conv(x, a, b)
          r = Relu(h)
          z = Conv(r, c) }""") == [(8, ["h"], ["z"])]


def test_a_shortcut_ties_and_results_hold():
    text = """
        m (float[N,6,8,8] x) => (float[N,6,8,8] z) <float[6,6,1,1] a, float[6,6,1,1] c>
        { h = Conv(x, a)
          g = Conv(h, c)
          z = Add(g, h) }"""
    assert groups(text) == []
    assert held(text) == {"h": "a result of the graph", "g": "a result of the graph"}


def test_flattening_repeats_a_channel_for_every_pixel():
    facts = find_channels(
        lift("""
        m (float[N,3,4,4] x) => (float[N,5] z) <float[6,3,1,1] a, float[5,96] c>
        { h = Conv(x, a)
          f = Flatten(h)
          z = Gemm <transB = 1> (f, c) }""")
    )
    (group,) = facts.groups
    assert group.size == 6
    assert [len(np.unique(part)) for part in np.split(group.readers[0].inputs, 6)] == [1] * 6


def test_halves_of_a_split_are_groups_of_their_own():
    assert [
        size
        for size, _, _ in groups("""
        m (float[N,3,4,4] x) => (float[N,5,4,4] z, float[N,5,4,4] y)
        <int64[2] halves = {4, 6}, float[10,3,1,1] a, float[5,4,1,1] c, float[5,6,1,1] d>
        { h = Conv(x, a)
          l, r = Split <axis = 1> (h, halves)
          z = Conv(l, c)
          y = Conv(r, d) }""")
    ] == [4, 6]


def test_heads_go_whole():
    facts = find_channels(onnx_io.load(nets.load("attention")))
    (group,) = facts.groups
    assert group.size == 2
    assert len(group.makers) == 3


def test_groups_of_layers_lose_equally_many():
    facts = find_channels(onnx_io.load(nets.load("shuffle")))
    (group,) = facts.groups
    assert {partition.shape for partition in group.partitions} == {(3, 8)}


def test_neighbours_and_statistics_are_stated():
    (lrn,) = find_channels(
        lift("""
        m (float[N,3,4,4] x) => (float[N,5,4,4] z) <float[6,3,1,1] a, float[5,6,1,1] c>
        { h = Conv(x, a)
          n = LRN <size = 3> (h)
          z = Conv(n, c) }""")
    ).groups
    assert lrn.approximate == (NEIGHBOURS,)
    (norm,) = find_channels(
        lift("""
        m (float[N,4] x) => (float[N,5] z) <float[4,6] a, float[6] s, float[6] t, float[6,5] c>
        { h = MatMul(x, a)
          n = LayerNormalization(h, s, t)
          z = MatMul(n, c) }""")
    ).groups
    assert norm.approximate == (STATISTICS,)


@pytest.mark.parametrize(
    ("middle", "why"),
    [
        ("n = Softmax <axis = 1> (h)", "runs over it"),
        ("n = CumSum(h, one)", "runs over it"),
        ("n = ns.Mystery(h)", "how it moves channels is not known"),
        ("n = Add(h, x)", "joins it with values that stay"),
    ],
)
def test_what_is_not_understood_holds(middle, why):
    text = f"""<ir_version: 8, opset_import: ["" : 17, "ns" : 1]>
        m (float[N,6,4,4] x) => (float[N,5,4,4] z) <int64 one = {{1}}, float[6,6,1,1] a, float[5,6,1,1] c>
        {{ h = Conv(x, a)
          {middle}
          z = Conv(n, c) }}"""
    assert why in held(text)["h"]


def test_shared_vectors_do_not_tie_layers():
    model = lift("""
        m (float[N,3,4,4] x) => (float[N,5,4,4] z) <float[6,3,1,1] a, float[6,6,1,1] c, float[6] b, float[5,6,1,1] d>
        { h = Conv(x, a, b)
          g = Conv(h, c, b)
          z = Conv(g, d) }""")
    assert [g.size for g in find_channels(model).groups] == [6]
    assert unshare(model) == 1
    assert [g.size for g in find_channels(model).groups] == [6, 6]


def test_linear_in_the_nodes():
    sizes = [len(find_channels(onnx_io.load(generators.chain(count))).fixed) for count in (300, 600)]
    assert sizes[1] == 2 * sizes[0]


def test_alignment():
    assert align(["N", 24, 8, 8], ["N", 3, 8, 8, 8])[1] == Block((1,), (1, 2))
    assert align(["N", "S", 32], ["N", "S", None, 16])[2] == Block((2,), (2, 3), True, (2, 2))
    assert align(["N", 4, 1, 1], ["N", 4]) == [Block((0,), (0,)), Block((1, 2, 3), (1,))]
    assert not align(["N", "S", 8], [None, 8, "S"])[0].known


def test_elements_unite_in_any_order():
    elements = Elements()
    a, b, c = elements.fresh(4), elements.fresh(4), elements.fresh(2)
    elements.unite(a, b[::-1])
    elements.unite(c, a[:2])
    elements.unite(b[:1], c[:1])
    assert np.array_equal(elements.find(a), elements.find(b[::-1]))
    assert len(np.unique(elements.roots())) == 3


def test_inspect_lists_groups(tmp_path):
    import onnx

    path = tmp_path / "shuffle.onnx"
    onnx.save(nets.load("shuffle"), path)
    shown = CliRunner().invoke(cli.app, ["inspect", "--channels", str(path)])
    assert shown.exit_code == 0
    assert "1 channel groups" in shown.stdout and "equally many in each of 3 parts" in shown.stdout

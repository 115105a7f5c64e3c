"""Random models for property tests, as a hypothesis strategy and by seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..arguments import check_arguments
from ..ir import DType, Port
from ..rewrite import Context, Rule
from .blocks import FAMILIES, Block
from .matching import block_for
from .sketch import Sketch, new_model

if TYPE_CHECKING:
    import onnx
    from hypothesis.strategies import SearchStrategy

OPSETS = (17, 13, 11, 12, 14, 15, 16, 18, 19, 20, 21, 22, 23, 24)  # failing examples shrink to the first


def graphs(
    *, blocks: int = 8, opsets: Sequence[int] = OPSETS, families: Sequence[str] = tuple(FAMILIES),
    matching: Sequence[Rule] = (), target: str = "portable",
) -> SearchStrategy[onnx.ModelProto]:  # fmt: skip
    """A hypothesis strategy of valid `onnx.ModelProto`s that onnxruntime runs.

    Graphs are put together from up to `blocks` blocks of one to a dozen nodes: common operators with the constants that
    simplifiers look for, the ways exporters spell activations and normalizations, shape arithmetic, nested graphs,
    quantization, infinite constants and attention with caches (`families`: elementwise, layout, linear, idioms, sizes,
    control, quantized, infinite, caches), with symbolic sizes, all of f32, f16, f64, i64, i32, bool, u8 and i8, shared
    weights, dead ends, results taken from the middle, at one of `opsets`. Two blocks in five match the pattern of a
    rule in `matching`, so that these rules fire often; with the `target` onnxruntime, operators of its CPU provider
    alone occur, too.
    `graphopt.equivalence.synthesise` makes inputs for them. Failures shrink to few blocks; `shrink` goes on
    to single nodes.

        @given(graphopt.testing.graphs())
        def test_my_pass(model):
            graphopt.testing.assert_equivalent(model, graphopt.optimize(model, passes=["my-pass"]).model)
    """
    check_arguments(graphs, locals())
    from hypothesis import strategies

    draw = partial(random_graph, blocks=blocks, opsets=opsets, families=families, matching=matching, target=target)
    return strategies.randoms(use_true_random=False).map(draw)


def random_graph(
    seed: int | random.Random, *, blocks: int = 8, opsets: Sequence[int] = OPSETS,
    families: Sequence[str] = tuple(FAMILIES), matching: Sequence[Rule] = (),
    target: str = "portable",
) -> onnx.ModelProto:  # fmt: skip
    """The random model of a seed, or of a `random.Random`; see `graphs`."""
    check_arguments(random_graph, locals())
    from .. import onnx_io

    rng = random.Random(seed) if isinstance(seed, int) else seed
    model = new_model(opsets[rng.randint(0, len(opsets) - 1)])
    sketch = Sketch(rng, model.graph, np.random.default_rng(rng.randint(0, 255)), context=Context(target))
    _add_inputs(sketch)
    drawable: list[Block] = [b for name in families for b, times in FAMILIES[name] for _ in range(times)]
    matched = [block_for(rule) for rule in matching]
    for _ in range(rng.randint(1, blocks)):
        for _ in range(4):
            if sketch.attempt(sketch.choose(matched if matched and sketch.chance(0.4) else drawable)):
                break
    _set_outputs(sketch)
    proto = onnx_io.to_proto(model)
    return _respell(sketch, proto)


def _add_inputs(s: Sketch) -> None:
    symbolic = s.chance(0.6)
    batch = "N" if symbolic else s.choose((1, 2))
    length = "S" if symbolic and s.chance(0.6) else 4
    image = (batch, s.choose((4, 3, 2)), s.choose((6, 4, 5)), s.choose((6, 4)))
    shapes = (image, image, (batch, s.choose((4, 6, 8))), (batch, length, s.choose((4, 8))), (s.choose((4, 6)),), ())
    dtype = s.choose((DType.FLOAT, DType.FLOAT, DType.FLOAT, DType.FLOAT, DType.DOUBLE, DType.FLOAT16))
    first = s.choose(shapes)
    s.add_input("x", dtype, first)
    for name, share in (("y", 0.5), ("z", 0.2)):
        if s.chance(share):
            s.add_input(name, DType.FLOAT, first if s.chance(0.4) else s.choose(shapes))
    if s.chance(0.2):
        s.add_input("flag", DType.BOOL, s.choose(((), first)))
    if s.chance(0.25):
        s.add_input("i", s.choose((DType.INT64, DType.INT32)), s.choose(((batch,), (4,), (batch, 3))))


def _set_outputs(s: Sketch) -> None:
    """Make most unread values outputs, leave some dead; sometimes a value with readers becomes an output, too."""
    graph = s.graph
    computed = [v for node in graph for v in node.outputs]
    ends = [v for v in computed if v.is_unused]
    results = [v for v in ends if s.chance(0.8)] or ends[-1:]
    middle = [v for v in computed if not v.is_unused]
    results += [v for v in middle if v in s.results or s.chance(0.06)]
    if not results:
        results = [s.node("Identity", s.pool[0])]
    graph.set_outputs(results, [Port(f"out{i}", v.type) for i, v in enumerate(results)])


def _respell(s: Sketch, proto: onnx.ModelProto) -> onnx.ModelProto:
    """Equivalent forms of a graph: constants as Constant nodes or as initializers that are also inputs, a node as a
    function call, inner types omitted.
    """
    import onnx

    graph = proto.graph
    if s.chance(0.5):
        del graph.value_info[:]
    if s.chance(0.1):
        _call(s, proto)
    kept = []
    for tensor in list(graph.initializer):
        if s.chance(0.25):
            node = onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
            graph.node.insert(0, node)
        else:
            kept.append(tensor)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    if kept and s.chance(0.1):
        tensor = kept[0]
        graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return proto


def _call(s: Sketch, proto: onnx.ModelProto) -> None:
    """Replace a node by a call of a function that holds it, behind an Identity or two Neg of its first operand."""
    import onnx

    callable_nodes = [n for n in proto.graph.node if len(n.input) and not n.domain and n.op_type in _CALLED]
    if not callable_nodes:
        return
    node = s.choose(callable_nodes)
    inputs = [f"a{i}" for i in range(len(node.input))]
    body = [onnx.helper.make_node("Identity", ["a0"], ["b"])]
    if s.chance(0.5):
        body = [onnx.helper.make_node("Neg", ["a0"], ["m"]), onnx.helper.make_node("Neg", ["m"], ["b"])]
    inner = onnx.NodeProto()
    inner.CopyFrom(node)
    del inner.input[:], inner.output[:]
    inner.name = ""
    inner.input.extend(["b", *inputs[1:]])
    inner.output.append("r")
    imports = [onnx.helper.make_opsetid("", proto.opset_import[0].version)]
    proto.functions.append(onnx.helper.make_function("local", "Called", inputs, ["r"], [*body, inner], imports))
    proto.opset_import.append(onnx.helper.make_opsetid("local", 1))
    del node.attribute[:]
    node.op_type, node.domain = "Called", "local"


_CALLED = frozenset(("Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Sqrt", "Softplus", "MatMul", "Div", "Sub"))

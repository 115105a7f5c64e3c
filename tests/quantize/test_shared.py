"""Weights with several readers are stored once: tables tied to the head of a model, heads behind Transpose, layers
used twice."""

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import graphopt
from graphopt.compress.layers.linear import Linear
from graphopt.ir import Constant, Node
from graphopt.measure import ort_session
from graphopt.passes.quantize.candidates import block_sizes
from graphopt.passes.quantize.candidates.shared import share_weights
from graphopt.passes.quantize.candidates.units import Unit
from tests.quantize.nets import parse

WORDS, WIDE = 300, 64
TABLE = np.random.default_rng(5).standard_normal((WORDS, WIDE)).astype(np.float32)
FEEDS = [{"ids": np.random.default_rng(i).integers(0, WORDS, (2, 7))} for i in range(8)]
HEADS = {
    "transposed": ("t = Transpose<perm=[1,0]>(table)  y = MatMul(h, t)", ""),
    "twice transposed": (
        "t = Transpose<perm=[1,0]>(table)  u = Transpose(table)  y = MatMul(h, t)  z = MatMul(g, u)", ""
    ),
    "a copy": ("y = MatMul(h, copy)", f", float[{WIDE},{WORDS}] copy"),
    "rows": ("f = Flatten<axis=2>(h)  y = Gemm<transB=1>(f, table)", ""),
}  # fmt: skip


def tied(head="transposed"):
    """Encoder and decoder read one table, which is the head, too."""
    spelled, more = HEADS[head]
    outputs = {"rows": "float[A,B] y", "twice transposed": "float[N,S,300] y, float[N,S,300] z"}.get(
        head, "float[N,S,300] y"
    )
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 17]> net (int64[N,S] ids) => ({outputs})
        <float[{WORDS},{WIDE}] table, float[{WIDE},{WIDE}] w1, float[{WIDE}] b1{more}>
        {{
            one = Constant<value_int=1>()
            e = Gather(table, ids)
            next = Add(ids, one)
            limit = Constant<value_int={WORDS}>()
            back = Mod(next, limit)
            d = Gather(table, back)
            m = MatMul(d, w1)
            a = Add(m, b1)
            g = Tanh(a)
            h0 = Add(g, e)
            h = Tanh(h0)
            {spelled}
        }}""",
        table=TABLE, copy=TABLE.T,
    )  # fmt: skip


def run(model, mode, target="portable", **options):
    settings = {"mode": mode, "speed": False, "min_sqnr": 10.0, "min_top1": 0.0, **options}
    made = graphopt.optimize(model, quantize=graphopt.Quantize(**settings), calibration=FEEDS, target=target)
    sessions = [ort_session(m.SerializeToString()) for m in (model, made.model)]
    noise = []
    for feed in FEEDS:
        for a, b in zip(*(s.run(None, feed) for s in sessions)):
            noise.append(10 * math.log10((a**2).sum() / max(((a - b) ** 2).sum(), 1e-30)))
    return made, min(noise)


def elements(model, kinds=(TensorProto.INT8, TensorProto.UINT8)):
    """Elements of the constants of some types, scalars and zero points left out."""
    sizes = [math.prod(t.dims) for t in model.graph.initializer if t.data_type in kinds and len(t.dims) == 2]
    return sum(sizes)


@pytest.mark.parametrize("weight_type", ["int8", "uint8"])
@pytest.mark.parametrize("mode", ["static", "dynamic", "weights"])
@pytest.mark.parametrize("head", HEADS)
def test_a_table_and_its_head_are_stored_once(head, mode, weight_type):
    made, noise = run(tied(head), mode, weight_type=weight_type)
    assert elements(made.model) == WORDS * WIDE + WIDE * WIDE
    assert not elements(made.model, (TensorProto.FLOAT,)) and noise > 25
    onnx.checker.check_model(made.model, full_check=True)
    once = 4 * (WORDS * WIDE + WIDE * WIDE)
    assert made.report.after.file_bytes < 0.25 * once + 12_000  # scales, and the nodes


@pytest.mark.parametrize("head", ["transposed", "a copy", "rows"])
@pytest.mark.parametrize("mode", ["dynamic", "weights"])
def test_a_float_head_keeps_its_table_and_no_file_grows(head, mode):
    made, noise = run(tied(head), mode, nodes_to_exclude=("y",))
    assert noise > 25
    reasons = [reason for _, reason in made.report.stages[0].refused]
    assert reasons.count("the product that shares its weight stays float") == 2
    assert elements(made.model) == WIDE * WIDE
    assert elements(made.model, (TensorProto.FLOAT,)) == WORDS * WIDE
    assert made.report.after.file_bytes <= made.report.before.file_bytes


def test_stored_for_size_a_head_stays_with_its_float_table():
    made, _ = run(tied(), "weights", op_types_to_quantize=("MatMul",))
    floats = elements(made.model, (TensorProto.FLOAT,))
    assert elements(made.model) + 4 * floats <= 4 * WORDS * WIDE + WIDE * WORDS + WIDE * WIDE


def test_of_two_bits_table_and_head_read_one_constant():
    made, noise = run(tied(), "weights", "onnxruntime", weight_type="int2", min_sqnr=0.0)
    codes = [t for t in made.model.graph.initializer if t.name.startswith(("table", "copy")) and "codes" in t.name]
    ops = [node.op_type for node in made.model.graph.node]
    assert {row[3] for row in made.report.stages[0].rows} == {2} and noise > 4
    assert len(codes) == 1 and numpy_helper.to_array(codes[0]).size == WORDS * WIDE // 4
    assert "GatherBlockQuantized" in ops and "MatMul" not in ops


def test_of_three_bits_table_and_head_use_the_four_that_their_codes_occupy():
    made, noise = run(tied(), "weights", "onnxruntime", weight_type="int3", min_sqnr=0.0)
    four, _ = run(tied(), "weights", "onnxruntime", weight_type="int4", min_sqnr=0.0)
    rows = {row[0]: row[3] for row in made.report.stages[0].rows}
    assert sorted(rows.values()) == [3, 4, 4, 4] and noise > 12
    assert "int3 in codes of 4 bits (3 of 4 as int4)" in made.report.stages[0].summary
    assert made.report.after.file_bytes == pytest.approx(four.report.after.file_bytes, rel=0.02)


@pytest.mark.parametrize("target", ["portable", "onnxruntime"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("block", [16, 64])
def test_of_four_bits_table_and_head_read_one_constant(head, target, block):
    made, noise = run(tied(head), "weights", target, weight_type="int4", min_sqnr=0.0, block_size=block)
    assert {row[3] for row in made.report.stages[0].rows} == {4} and noise > 12
    codes = [t for t in made.model.graph.initializer if t.name.startswith(("table", "copy")) and "codes" in t.name]
    ops = [node.op_type for node in made.model.graph.node]
    assert len(codes) == 1 and numpy_helper.to_array(codes[0]).size in (WORDS * WIDE, WORDS * WIDE // 2)
    once = (WORDS + WIDE) * WIDE // 2 + (WORDS + WIDE) * 5 * -(-WIDE // block)  # codes, scales and zero points
    assert made.report.after.file_bytes < once + 12_000  # the nodes
    if target == "onnxruntime":
        assert ops.count("GatherBlockQuantized") == 2 and "MatMul" not in ops and "DequantizeLinear" not in ops
    else:
        assert codes[0].data_type == TensorProto.INT4 and "DequantizeLinear" in ops
        onnx.checker.check_model(made.model, full_check=True)


@pytest.mark.parametrize("target", ["portable", "onnxruntime"])
def test_a_partial_block_of_a_shared_table(target):
    wide = 72
    table = np.random.default_rng(3).standard_normal((WORDS, wide)).astype(np.float32)
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 17]> net (int64[N] ids) => (float[N,{WORDS}] y, float[N,{wide}] e)
        <float[{WORDS},{wide}] table>
        {{ g = Gather(table, ids)  e = Neg(g)  t = Transpose(table)  y = MatMul(e, t) }}""",
        table=table,
    )
    feeds = [{"ids": np.arange(-WORDS, WORDS)}]  # negative indices count from the end
    options = graphopt.Quantize("weights", weight_type="int4", speed=False, min_sqnr=10, min_top1=0)
    made = graphopt.optimize(model, quantize=options, calibration=feeds, target=target)
    (y, e), (_, rows) = (ort_session(m.SerializeToString()).run(None, feeds[0]) for m in (made.model, model))
    assert {row[3] for row in made.report.stages[0].rows} == {4}
    assert e.shape == rows.shape and 10 * math.log10((rows**2).sum() / ((rows - e) ** 2).sum()) > 18
    assert np.abs(y + e @ e[WORDS:].T).max() < 0.02 * np.abs(y).max()  # the head has the weights of the rows


@pytest.mark.parametrize("head", ["transposed", "rows"])
def test_blocks_of_eight_bits_are_shared_alike(head):
    plain, blocked = (run(tied(head), "weights", block_size=block)[1] for block in (None, 16))
    assert blocked > plain - 1 > 25
    assert run(tied(head), "weights", block_size=16, weight_type="uint8")[1] > plain - 1


def test_for_onnxruntime_a_language_model_in_eight_bits_has_blocks_but_for_its_table():
    made, noise = run(tied(), "weights", "onnxruntime")
    products = [node for node in made.model.graph.node if node.op_type == "MatMulNBits"]
    assert [attribute.i for node in products for attribute in node.attribute if attribute.name == "bits"] == [8]
    tables = [t for t in made.model.graph.initializer if t.name.startswith("table") and "codes" in t.name]
    assert [list(table.dims) for table in tables] == [[WORDS, WIDE]] and noise > 30
    one, blocked = (run(tied(), "weights", "onnxruntime", block_size=size) for size in (None, 16))
    assert "GatherBlockQuantized" in [node.op_type for node in blocked[0].model.graph.node] and blocked[1] > one[1]
    assert elements(blocked[0].model) <= WORDS * WIDE + WIDE * WIDE


@pytest.mark.parametrize("version, products", [("1.22.1", set()), ("1.23.0", {"MatMulNBits", "GatherBlockQuantized"})])
def test_onnxruntime_multiplies_by_the_codes_of_a_wide_table(version, products, monkeypatch):
    """With a scale a row it would compute the whole table for each token; blocks of 8 bits it gathers from 1.23 on."""
    monkeypatch.setattr(block_sizes, "version", lambda _: version)
    wide = 160
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 17]> net (int64[N,S] ids) => (float[N,S,{WORDS}] y)
        <float[{WORDS},{wide}] table> {{ g = Gather(table, ids)  e = Neg(g)  t = Transpose<perm=[1,0]>(table)
        y = MatMul(e, t) }}""",
        table=np.random.default_rng(3).standard_normal((WORDS, wide)).astype(np.float32),
    )
    made, noise = run(model, "weights", "onnxruntime")
    ops = {node.op_type for node in made.model.graph.node}
    assert ops & {"MatMulNBits", "GatherBlockQuantized"} == products and noise > 30
    assert ("DequantizeLinear" in ops) is (not products)
    assert elements(made.model) <= WORDS * wide


def test_for_accuracy_what_is_shared_gets_finer_codes_together():
    made, noise = run(tied(), "weights", weight_type="int4", min_sqnr=22.0, judge="sqnr")
    bits = {row[0]: row[3] for row in made.report.stages[0].rows}
    assert noise > 20 and bits["e"] == bits["d"] == bits["y"] == 8
    assert elements(made.model) == WORDS * WIDE + (WIDE * WIDE if bits["m"] == 8 else 0)


def test_a_layer_used_twice_is_stored_once():
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 17]> net (float[N,{WIDE}] x) => (float[N,{WIDE}] y)
        <float[{WIDE},{WIDE}] w> {{ t = Transpose<perm=[1,0]>(w)  a = MatMul(x, t)  b = Tanh(a)  y = MatMul(b, t) }}"""
    )
    data = [{"x": np.random.default_rng(i).standard_normal((4, WIDE)).astype(np.float32)} for i in range(4)]
    for mode in ("static", "dynamic", "weights"):
        options = graphopt.Quantize(mode, speed=False, min_sqnr=10, min_top1=0)
        made = graphopt.optimize(model, quantize=options, calibration=data)
        assert elements(made.model) == WIDE * WIDE and made.report.status == "lossy"


def test_weights_are_compared_whole():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((50, 8)).astype(np.float32)
    other = rows.copy()
    other[17, 3] += 1
    head, table, near = Node("MatMul", (None, None)), Node("Gather", (None, None)), Node("Gather", (None, None))
    given = [Linear(n, Constant.of(w), None, 1, 1) for n, w in ((table, rows), (near, other), (head, rows.T))]
    units, shared = share_weights(Unit(linear.node, None, (), (), linear=linear) for linear in given)
    assert shared.heads == {table: head} and shared.codes_of == {table: head}
    assert [unit.layer.axis for unit in units] == [0, 1, 1]


def test_the_layer_of_a_table_reads_as_the_float_one():
    made, _ = run(tied("transposed"), "weights")
    constants = {t.name: numpy_helper.to_array(t) for t in made.model.graph.initializer}
    codes = next(c for c in constants.values() if c.dtype == np.int8 and c.shape == (WORDS, WIDE))
    scale = np.abs(TABLE).max(1) / 127
    assert np.abs(codes * scale[:, None] - TABLE).max() <= 1.5 * scale.max()


@pytest.mark.parametrize("is_on_grid", [True, False])
def test_a_dynamic_result_keeps_a_table_float_whose_codes_would_cost_accuracy(is_on_grid):
    table = np.rint(TABLE * 30).clip(-127, 127) / 64 if is_on_grid else TABLE
    table[0] = 127 / 64 if is_on_grid else table[0]  # the scale of each column: its codes are exact
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 17]> net (int64[N,S] ids) => (float[N,S,{WIDE}] y)
        <float[{WORDS},{WIDE}] table, float[{WIDE},{WIDE}] w, float share>
        {{ e = Gather(table, ids)  m = MatMul(e, w)  p = Mul(m, share)  y = Add(e, p) }}""",
        table=table, share=np.float32(1e-2),
    )  # fmt: skip
    made, noise = run(model, "dynamic")
    refused = dict(made.report.stages[0].refused)
    assert noise > 70  # as if the table were float, which most of the result is
    if is_on_grid:
        assert not refused and elements(made.model) == WORDS * WIDE + WIDE * WIDE
        return
    assert elements(made.model) == WIDE * WIDE
    assert refused == {"e": "its codes would cost more than 1 dB of the results"}
    for mode, floor in (("dynamic", -math.inf), ("weights", 10.0)):
        stored, noise = run(model, mode, min_sqnr=floor)
        assert elements(stored.model) == WORDS * WIDE + WIDE * WIDE and noise < 60

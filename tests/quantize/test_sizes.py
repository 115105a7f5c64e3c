"""What layers and conversions cost is told by the sizes of a sample: declared ones may be open, which says nothing."""

import math

import numpy as np
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.calibration import shapes_at
from graphopt.measure import figures, macs_at, macs_values
from graphopt.passes.quantize.candidates.assignment import Assignment
from graphopt.passes.quantize.candidates.units import find_units
from graphopt.passes.quantize.options import Quantize
from graphopt.passes.quantize.place import cost_model
from tests.quantize.nets import images, parse

OPEN = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,H,W] x) => (float[N,M] y)
<float[8,3,3,3] w1, float[8,8,3,3] w2, float[8,4] w3>
{
    c = Conv<pads=[1,1,1,1]>(x, w1)
    r = Relu(c)
    d = Conv<strides=[2,2], pads=[1,1,1,1]>(r, w2)
    g = GlobalAveragePool(d)
    f = Flatten(g)
    y = MatMul(f, w3)
}"""


@pytest.fixture
def model():
    return onnx_io.load(parse(OPEN))


def test_shapes_are_those_of_the_sample(model):
    values = [node.output for node in model.graph]
    found = shapes_at(model, values, images(1)[0])
    assert [found[v] for v in values] == [
        (1, 8, 16, 16), (1, 8, 16, 16), (1, 8, 8, 8), (1, 8, 1, 1), (1, 8), (1, 4),
    ]  # fmt: skip


def test_what_cannot_run_shows_no_shapes(model):
    assert shapes_at(model, [model.graph.snapshot()[0].output], {"x": np.zeros((1, 5, 4, 4), np.float32)}) == {}


def test_products_are_counted_at_the_sizes_of_the_sample(model):
    shapes = shapes_at(model, macs_values(model), images(1)[0])
    assert list(macs_at(model, shapes).values()) == [
        16 * 16 * 8 * 27,
        8 * 8 * 8 * 72,
        32,
    ]


@pytest.mark.parametrize("cached", [False, True])
def test_attention_multiplies_queries_with_keys_and_scores_with_values(cached):
    """2 · 4 · 5 queries of 8 and values of 6, over 7 keys, or 7 and 3 of a cache. Fused, they counted nothing."""
    past = ", float[2,4,3,8] pk, float[2,4,3,6] pv" if cached else ""
    results = "float[2,4,5,6] y" + ", float[2,4,10,8] pr" * cached
    model = parse(
        f"""<ir_version: 11, opset_import: ["" : 23]>
        net (float[2,4,5,8] q, float[2,4,7,8] k, float[2,4,7,6] v{past}) => ({results})
        {{ y{", pr, ps" * cached} = Attention(q, k, v{", , pk, pv" * cached}) }}"""
    )
    assert figures(onnx_io.load(model)).macs == 2 * 4 * 5 * (8 + 6) * (10 if cached else 7)


def test_the_attention_of_onnxruntime_also_makes_its_queries_keys_and_values():
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        net (float[N,5,16] x) => (float[N,5,16] y) <float[16,48] w, float[48] b>
        { y = com.microsoft.Attention<num_heads = 4>(x, w, b) }"""
    )
    assert figures(onnx_io.load(model)).macs_by_size == {"N": 5 * 16 * 48 + 2 * 5 * 16 * 5}


def test_the_reported_share_weighs_layers_as_the_sample_does():
    options = graphopt.Quantize(speed=False, min_sqnr=-math.inf, min_top1=0, nodes_to_exclude=("d",))
    made = graphopt.optimize(parse(OPEN), quantize=options, calibration=images(4), validate=False)
    inside, outside = 16 * 16 * 8 * 27 + 32, 8 * 8 * 8 * 72
    assert made.report.stages[0].figures["share_of_macs"] == pytest.approx(inside / (inside + outside))


@pytest.mark.parametrize("size", [8, 32])
def test_conversions_cost_what_their_elements_do(model, size, monkeypatch):
    monkeypatch.setattr(cost_model, "conversion_rates", lambda: (1.0, 2.0))
    units = find_units(model, Quantize()).members
    shapes = shapes_at(model, [node.output for node in model.graph], images(1, size=size)[0])
    into, out = cost_model.conversion_costs(Assignment(model, frozenset(units), {}, {}, Quantize()), shapes)
    clamped = next(u.output for u in units if u.clamp is not None)
    assert into[clamped] == pytest.approx(8 * size * size) and out[clamped] == pytest.approx(2 * 8 * size * size)


def test_weights_whose_codes_and_scales_take_more_bytes_stay():
    """Of one input a channel has one weight of 4 bytes; its code, scale and zero point take 6."""
    net = parse("""<ir_version: 8, opset_import: ["" : 17]>
    net (float[N,1] x) => (float[N,64] y) <float[1,256] w, float[256,64] v> {
        h = MatMul(x, w)
        y = MatMul(h, v)
    }""")
    options = Quantize("weights", min_sqnr=-math.inf, min_top1=0)
    feeds = [{"x": np.float32([[-1], [n]])} for n in range(4)]
    made = graphopt.optimize(net, quantize=options, calibration=feeds, validate=False, passes=[])
    stored = {t.name: tuple(t.dims) for t in made.model.graph.initializer if t.data_type in (2, 3) and len(t.dims) == 2}
    assert [*stored.values()] == [(256, 64)]
    assert any("more bytes" in why for _, why in made.report.stages[0].refused)

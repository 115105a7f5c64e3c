"""A budget of bits a weight: each layer's width by its harm, within the budget, and files that hold several widths."""

import itertools
import re

import numpy as np
import pytest
from onnx import numpy_helper

import graphopt
from graphopt.errors import OptionError
from graphopt.measure import ort_session
from graphopt.passes.quantize.place.bit_budget import LayerChoice, Width, allocate
from tests.ops import decoders
from tests.quantize.nets import parse
from tests.quantize.test_shared import FEEDS as TOKENS
from tests.quantize.test_shared import tied

RNG = np.random.default_rng(0)
WIDE = 64
FEEDS = [{"x": RNG.standard_normal((6, WIDE)).astype(np.float32)} for _ in range(6)]
TEXT = f"""<ir_version: 8, opset_import: ["" : 21]> net (float[N,{WIDE}] x) => (float[N,{WIDE}] y)
<float[{WIDE},{WIDE}] loud, float[{WIDE},{WIDE}] usual, float[{WIDE},{WIDE}] faint, float little = {{0.01}}>
{{
    t = Tanh(x)
    s = Sin(x)
    a = MatMul(x, loud)
    b = MatMul(t, usual)
    c = MatMul(s, faint)
    d = Mul(b, little)
    e = Mul(c, little)
    f = Mul(e, little)
    g = Add(a, d)
    y = Add(g, f)
}}"""


def made(budget, target="onnxruntime", model=None, feeds=FEEDS, **options):
    quantize = graphopt.Quantize("weights", bits_per_weight=budget, speed=False, min_sqnr=0.0, min_top1=0.0, **options)
    return graphopt.optimize(
        parse(TEXT) if model is None else model, quantize=quantize, calibration=feeds, target=target
    )


def widths(result):
    """Bits of each layer, by its name."""
    return {row[0]: row[3] for row in result.report.stages[0].rows}


def bits(result):
    """Bits of all codes, scales and zero points."""
    return 8 * sum(len(t.raw_data or numpy_helper.to_array(t).tobytes()) for t in result.model.graph.initializer)


def noise(result):
    """The power of the noise of the results."""
    sessions = [ort_session(model.SerializeToString()) for model in (parse(TEXT), result.model)]
    return sum(((a - b) ** 2).sum() for a, b in zip(*([s.run(None, feed)[0] for feed in FEEDS] for s in sessions)))


def divergence(result):
    """The KL of the next token's distribution that the report tells."""
    return float(re.findall(r"KL ([0-9.]+),", result.report.stages[0].summary)[-1])


@pytest.mark.parametrize("seed", range(20))
def test_widths_are_the_best_but_for_the_last_layers_that_fit(seed):
    rng = np.random.default_rng(seed)
    sizes, harms = rng.integers(1, 100, 6).astype(float), rng.exponential(1.0, 6)
    widths = (Width(2, 32), Width(4, 64), Width(4, 32), Width(8))
    choices = [
        LayerChoice(
            widths, (3 * n, 4.5 * n, 5 * n, 9 * n), (4 * harm, harm * rng.uniform(0.2, 0.9), harm / 4, harm / 1024)
        )
        for n, harm in zip(sizes, harms)
    ]
    budget = float(rng.uniform(3.1, 8.9)) * sizes.sum()

    def harm_of(picked):
        return sum(c.harm[c.widths.index(b)] for c, b in zip(choices, picked))

    def bits_of(picked):
        return sum(c.stored[c.widths.index(b)] for c, b in zip(choices, picked))

    found = allocate(choices, budget)
    every = [p for p in itertools.product(widths, repeat=6) if bits_of(p) <= budget]
    smaller = [p for p in every if bits_of(p) <= budget - 4 * sizes.max()]
    assert bits_of(found) <= budget
    assert harm_of(found) >= min(map(harm_of, every)) - 1e-9
    assert not smaller or harm_of(found) <= min(map(harm_of, smaller)) + 1e-9


@pytest.mark.parametrize(
    ("budget", "wanted"),
    [(2.7, (2, 2, 2)), (5.2, (8, 2, 2)), (5.4, (8, 4, 2)), (7.0, (8, 8, 2)), (9.5, (8, 8, 8))],
)
def test_harmful_layers_get_more_bits_within_the_budget(budget, wanted):
    result = made(budget)
    assert tuple(widths(result).values()) == wanted and list(widths(result)) == ["a", "d", "f"]
    assert bits(result) <= budget * 3 * WIDE * WIDE
    kinds = {op.op_type for op in result.model.graph.node}
    assert ("MatMulNBits" in kinds) == (2 in wanted)


def test_portable_files_hold_four_and_eight_bits():
    result = made(7.0, "portable")
    assert tuple(widths(result).values()) == (8, 4, 4) and bits(result) <= 7.0 * 3 * WIDE * WIDE
    whole = [made(None, "portable", weight_type=kind) for kind in ("int4", "int8")]
    noises = [noise(model) for model in (whole[0], result, whole[1])]
    assert noises[0] > 4 * noises[1] and noises[1] < 1.5 * noises[2]


@pytest.mark.parametrize("target", ["onnxruntime", "portable"])
def test_a_table_and_its_head_are_of_one_width(target):
    widest, narrowest = (made(budget, target, tied(), TOKENS) for budget in (9.5, 5.2))
    assert set(widths(widest).values()) == {8} and set(widths(narrowest).values()) <= {2, 4, 8}
    tables = {row[0]: row[3] for row in narrowest.report.stages[0].rows if row[0] in ("e", "d", "y")}
    assert len(tables) == 3 and len(set(tables.values())) == 1
    assert bits(narrowest) < 0.7 * bits(widest)


def test_a_decoder_is_measured_by_divergence_on_the_first_tokens_of_prompts():
    prompts = [np.random.default_rng(k).integers(0, 100, 12) for k in range(6)]
    result = made(6.0, model=decoders.decoder(), feeds=prompts)
    found = widths(result)
    weights = {t.name: t.dims for t in decoders.decoder().graph.initializer if t.name.endswith("_w")}
    assert len(weights) == 15 and {4, 8} <= set(found.values())
    floats = 32 * (100 * 64 + 2 * 64 * 8 + 4 * 64)  # the table is small, and stays as it is
    assert bits(result) <= 6.0 * sum(np.prod(dims) for dims in weights.values()) + floats + 1000  # numbers of shapes
    three = made(None, model=decoders.decoder(), feeds=prompts, weight_type="int4", max_kl=100.0)
    assert divergence(result) < divergence(three) < divergence(made(3.3, model=decoders.decoder(), feeds=prompts))


def test_products_of_one_input_get_one_width_and_are_merged():
    result = made(3.9, model=decoders.decoder(), feeds=[np.arange(1, 13) * 7 % 100 for _ in range(4)])
    found = widths(result)
    products = [node for node in result.model.graph.node if node.op_type == "MatMulNBits"]
    assert len(products) == len(found) - 4 and len({*found.values()}) > 1  # queries, keys and values of two layers


def test_a_recipe_makes_the_same_file_again():
    result = made(5.2)
    assert result.recipe.quantize.bits_per_weight is None
    assert dict(result.recipe.layers) == {"a": "weights8", "d": "weights2 block64", "f": "weights2 block64"}
    again = graphopt.optimize(parse(TEXT), recipe=result.recipe, calibration=FEEDS)
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)


def test_layers_of_the_caller_keep_their_choice():
    found = widths(made(4.0, layers={"a": "weights2", "f": "weights8"}))
    assert found == {"a": 2, "d": 2, "f": 8}


@pytest.mark.parametrize("target", ["onnxruntime", "portable"])
def test_layers_name_their_blocks(target):
    chosen = {"a": "weights4 block64", "d": "weights4 block16", "f": "weights4"}
    result = made(None, target, weight_type="int4", layers=chosen)
    blocks = [a.i for node in result.model.graph.node for a in node.attribute if a.name == "block_size"]
    assert sorted(blocks) == [16, 32, 64] and dict(result.recipe.layers) == chosen
    again = graphopt.optimize(parse(TEXT), recipe=result.recipe, calibration=FEEDS)
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)


def test_products_that_widen_share_scales_of_more_inputs():
    prompts = [np.random.default_rng(k).integers(0, 100, 12) for k in range(4)]

    def blocks(**options):
        quantized = made(None, model=decoders.decoder(), feeds=prompts, max_kl=100.0, **options)
        nodes = [node for node in quantized.model.graph.node if node.op_type == "MatMulNBits"]
        sizes = {node.input[1]: a.i for node in nodes for a in node.attribute if a.name == "block_size"}
        wide = {name for name in sizes if name.startswith(("gate", "up"))}
        assert len(wide) == 4
        return {sizes[name] for name in wide}, {sizes[name] for name in sizes.keys() - wide}

    assert blocks(weight_type="int4") == ({64}, {32})
    assert blocks(weight_type="int4", block_size=32) == blocks(weight_type="int3") == ({32}, {32})


def test_blocks_of_no_product_are_one_line():
    with pytest.raises(OptionError, match=r"a: 'weights4 block48' is not one of .* .did you mean weights4 block"):
        made(None, layers={"a": "weights4 block48"})
    net = parse(
        """<ir_version: 8, opset_import: ["" : 21]> net (float[1,2,5,5] x) => (float[1,4,3,3] c)
        <float[4,2,3,3] w> { c = Conv(x, w) }"""
    )
    with pytest.raises(OptionError, match="c cannot be weights4 block64: blocks are for products"):
        made(None, "portable", net, None, layers={"c": "weights4 block64"})


def test_budgets_that_cannot_be_are_one_line():
    with pytest.raises(OptionError, match=r"bits_per_weight 2.5 is below 2.62, the least .* target onnxruntime"):
        made(2.5)
    with pytest.raises(OptionError, match=r"bits_per_weight 4 is below 4.56, the least .* target portable"):
        made(4, "portable")
    with pytest.raises(OptionError, match="bits_per_weight is for mode weights"):
        graphopt.Quantize("static", bits_per_weight=4.5)
    with pytest.raises(OptionError, match="chooses what weight_type would say"):
        graphopt.Quantize("weights", weight_type="int4", bits_per_weight=4.5)
    with pytest.raises(OptionError, match="bits_per_weight -1 is not a number of bits above 0"):
        graphopt.Quantize("weights", bits_per_weight=-1)


def test_models_without_layers_stay_as_they_are():
    model = parse('<ir_version: 8, opset_import: ["" : 17]> net (float[N] x) => (float[N] y) { y = Tanh(x) }')
    result = made(4.0, model=model, feeds=[{"x": np.ones(3, np.float32)}])
    assert [node.op_type for node in result.model.graph.node] == ["Tanh"]

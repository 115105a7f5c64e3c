"""Language models in mode dynamic: layers with massive activations read stored weights; the floor is a divergence."""

import numpy as np
import pytest

import graphopt
from graphopt.measure import ort_session
from graphopt.measure.tokens import TokenScores
from tests.quantize.nets import parse

WORDS, WIDE, INNER, START = 120, 64, 128, 1
RNG = np.random.default_rng(0)
TABLE = RNG.standard_normal((WORDS, WIDE)).astype(np.float32)
UP = (RNG.standard_normal((WIDE, INNER)) / 8).astype(np.float32)
DOWN = (RNG.standard_normal((INNER, WIDE)) / 8).astype(np.float32)
HEAD = (RNG.standard_normal((WIDE, WORDS)) / 6).astype(np.float32)
TABLE[:, 0], TABLE[START, 0], UP[0], UP[0, 0], DOWN[0] = (
    0.0,
    4.0,
    0.0,
    2000.0,
    1e-5,
)  # an element of 8,000, read by nobody
PROMPTS = [np.array([START, *RNG.integers(2, WORDS, 20)]) for _ in range(8)]
OTHERS = [np.array([START, *RNG.integers(2, WORDS, 30)])[None] for _ in range(4)]


def model(**weights):
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 17]> net (int64[N,S] ids) => (float[N,S,{WORDS}] y)
        <float[{WORDS},{WIDE}] table, float[{WIDE},{INNER}] up, float[{INNER},{WIDE}] down, float[{WIDE},{WORDS}] head>
        {{
            x = Gather(table, ids)
            m = MatMul(x, up)
            r = Relu(m)
            d = MatMul(r, down)
            h = Add(x, d)
            y = MatMul(h, head)
        }}""",
        **{"table": TABLE, "up": UP, "down": DOWN, "head": HEAD, **weights},
    )  # fmt: skip


def dynamic(given, target="onnxruntime", **options):
    quantize = graphopt.Quantize("dynamic", speed=False, **options)
    return graphopt.optimize(given, quantize=quantize, calibration=PROMPTS, target=target)


def divergence(given, result):
    scores = TokenScores()
    sessions = [ort_session(m.SerializeToString()) for m in (given, result.model)]
    for ids in OTHERS:
        scores.add(*(s.run(None, {"ids": ids})[0] for s in sessions), {"ids": ids})
    return scores.divergence


@pytest.mark.parametrize("target", ["onnxruntime", "portable"])
def test_a_layer_with_massive_activations_reads_stored_weights(target):
    given = model()
    free = dynamic(given, target, min_sqnr=-np.inf, min_top1=0.0)
    result = dynamic(given, target)
    assert divergence(given, free) > 0.5 and divergence(given, result) < 0.02
    choices = {name: word for name, word in result.recipe.layers.items() if name in "mdy"}
    assert choices == {"m": "dynamic", "d": "weights8", "y": "dynamic"}
    assert "at most KL 0.05" in result.report.stages[0].summary


def test_limits_decide_what_the_layer_becomes():
    given = model()
    words = [dynamic(given, max_kl=limit).recipe.layers["d"] for limit in (100.0, 0.02, 1e-5)]
    assert words == ["dynamic", "weights8", "float32"]


def test_without_massive_activations_all_products_are_on_integers():
    calm = UP.copy()
    calm[0, 0] = 0.0
    words = dynamic(model(up=calm)).recipe.layers
    assert {words[name] for name in "mdy"} == {"dynamic"}


def test_the_limit_is_a_number():
    assert graphopt.Quantize("dynamic").kl_limit < graphopt.Quantize("weights").kl_limit
    assert graphopt.Quantize("dynamic", max_kl=2.0).kl_limit == 2.0
    with pytest.raises(graphopt.OptionError, match="max_kl 0 is not a number of nats above 0"):
        graphopt.Quantize("weights", max_kl=0)

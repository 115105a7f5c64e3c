"""Every operator that changed takes its later form with the same results, and what has none refuses in one line."""

import numpy as np
import onnx
import pytest
from onnx import parser

import graphopt
from graphopt import onnx_io
from graphopt.errors import OptionError
from graphopt.passes.convert.opset import check_convertible, convert_opset
from graphopt.pipeline import PassError
from tests import zoo
from tests.passes.harness import assert_same, check, lift, ops, rewrite

IMAGE = "g (float[N,4,6,6] x) => (float[a,b,c,d] y)"
ROWS = "g (float[N,3,4] x) => (float[a,b,c] y)"
FORMS = {
    "Softmax over many axes": (9, f"{ROWS} {{ y = Softmax<axis = 1>(x) }}"),
    "Softmax over the last": (9, f"{ROWS} {{ y = Softmax<axis = 2>(x) }}"),
    "LogSoftmax by default": (11, f"{ROWS} {{ y = LogSoftmax(x) }}"),
    "Squeeze": (9, "g (float[N,1,4] x) => (float[a,b] y) { y = Squeeze<axes = [1]>(x) }"),
    "Unsqueeze": (11, "g (float[N,4] x) => (float[a,b,c,d] y) { y = Unsqueeze<axes = [0, 3]>(x) }"),
    "ReduceSum": (11, f"{ROWS} {{ y = ReduceSum<axes = [-1]>(x) }}"),
    "ReduceMean": (13, f"{ROWS} {{ y = ReduceMean<axes = [1, 2]>(x) }}"),
    "ReduceMax of all": (9, f"{ROWS} {{ y = ReduceMax(x) }}"),
    "Split": (9, f"{ROWS} {{ p, q = Split<axis = 2, split = [1, 3]>(x)\n y = Concat<axis = 2>(q, p) }}"),
    "Split in equal parts": (13, f"{ROWS} {{ p, q = Split<axis = 2>(x)\n y = Concat<axis = 2>(q, p) }}"),
    "TopK": (9, "g (float[N,6] x) => (float[a,b] y, int64[a,b] i) { y, i = TopK<k = 2>(x) }"),
    "Slice": (9, f"{ROWS} {{ y = Slice<starts = [1], ends = [3], axes = [2]>(x) }}"),
    "Pad": (9, f"{ROWS} {{ y = Pad<pads = [0, 1, 0, 0, 0, 2], value = 3.0>(x) }}"),
    "Clip": (9, f"{ROWS} {{ y = Clip<min = -0.5, max = 0.5>(x) }}"),
    "Clip of one side": (9, f"{ROWS} {{ y = Clip<min = 0.0>(x) }}"),
    "Dropout": (9, f"{ROWS} {{ p = Dropout<ratio = 0.3>(x)\n y = Exp(p) }}"),
    "BatchNormalization": (8, f"{IMAGE} <float[4] g, float[4] t, float[4] m, float[4] v> "
                              "{ y = BatchNormalization<spatial = 1>(x, g, t, m, v) }"),
    "Upsample": (9, f"{IMAGE} <float[4] s = {{1.0, 1.0, 2.0, 2.0}}> {{ y = Upsample(x, s) }}"),
    "Upsample in between": (9, f"{IMAGE} <float[4] s = {{1.0, 1.0, 2.0, 2.0}}> "
                               "{ y = Upsample<mode = \"linear\">(x, s) }"),
    "Resize": (10, f"{IMAGE} <float[4] s = {{1.0, 1.0, 3.0, 2.0}}> {{ y = Resize(x, s) }}"),
    "Scatter": (9, "g (float[2,4] x) => (float[a,b] y) <int64[1,2] i = {1, 0}, float[1,2] u> "
                   "{ y = Scatter<axis = 1>(x, i, u) }"),
    "nested": (11, "g (float[N,3,4] x, bool c) => (float[a,b] y) { y = If(c) <"
                   "then_branch = p () => (float[d,e] p1) { p1 = ReduceSum<axes = [1], keepdims = 0>(x) },"
                   "else_branch = q () => (float[f,h] q1) { q1 = ReduceMean<axes = [1], keepdims = 0>(x) }> }"),
}  # fmt: skip
REFUSED = {
    "positions with statistics": (8, f"{IMAGE} <float[4,6,6] g, float[4,6,6] t, float[4,6,6] m, float[4,6,6] v> "
                                     "{ y = BatchNormalization<spatial = 0>(x, g, t, m, v) }"),
    "Resize that makes smaller": (10, f"{IMAGE} <float[4] s = {{1.0, 1.0, 0.5, 0.5}}> {{ y = Resize(x, s) }}"),
    "a mask in use": (10, "g (float[N,4] x) => (float[a,b] y, bool[a,b] z) { y, z = Dropout(x) }"),
}  # fmt: skip


@pytest.mark.parametrize("to", [13, 18, 23])
@pytest.mark.parametrize("name", FORMS)
def test_operators_take_their_later_form(name, to):
    opset, text = FORMS[name]
    before = lift(text, opset=opset, v=[0.5, 1, 2, 3])
    after, changes = rewrite(before, convert_opset(to))
    assert after.opset == to and bool(changes) == (opset != to)
    onnx.checker.check_model(onnx_io.to_proto(after), full_check=True)
    assert_same(before, after, rtol=1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_operators_take_their_form_in_each_opset_on_the_way(name):
    opset, text = FORMS[name]
    before = lift(text, opset=opset, v=[0.5, 1, 2, 3])
    for to in range(opset + 1, 14):
        after, _ = rewrite(before, convert_opset(to))
        onnx.checker.check_model(onnx_io.to_proto(after), full_check=True)
        assert_same(before, after, rtol=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_later_form_refuses(name):
    opset, text = REFUSED[name]
    with pytest.raises(PassError, match="opset 18: node"):
        rewrite(lift(text, opset=opset), convert_opset(18))
    with pytest.raises(OptionError, match="opset 18: node"):
        graphopt.optimize(onnx_io.to_proto(lift(text, opset=opset)), opset=18)


@pytest.mark.parametrize(("form", "operators"), [
    ("Softmax<axis = -1>", ["Softmax"]),
    ("Softmax<axis = -2>", ["Shape", "Flatten", "Softmax", "Reshape"]),
    ("LogSoftmax<axis = 0>", ["Shape", "Flatten", "LogSoftmax", "Reshape"]),
])  # fmt: skip
def test_softmax_of_an_unknown_rank_takes_its_later_form(form, operators):
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 11]> g (float x) => (float y) {{ y = {form}(x) }}')
    for info in (proto.graph.input[0], proto.graph.output[0]):
        info.type.tensor_type.ClearField("shape")
    result = graphopt.optimize(proto, opset=21, validate=False)
    assert [n.op_type for n in result.model.graph.node] == operators
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    assert graphopt.compare(proto, result.model, [{"x": x}]).status == "equal"


def test_conversion_goes_up_only():
    model = lift(f"{ROWS} {{ y = Exp(x) }}", opset=17)
    with pytest.raises(OptionError, match="goes up only"):
        check_convertible(model, 13)
    with pytest.raises(OptionError, match="opset 999"):
        convert_opset(999)
    assert rewrite(model, convert_opset(17))[1] == 0


def test_other_domains_and_functions_stay():
    text = """<ir_version: 8, opset_import: ["" : 11, "own" : 1]>
    g (float[N,3,4] x) => (float[a,b,c] y) { s = ReduceSum<axes = [1]>(x)
      y = own.double(s) }
    <domain: "own", opset_import: ["" : 11]>
    double (a) => (b) { c = Add(a, a)
      b = ReduceSum<axes = [2]>(c) }"""
    before = lift(text)
    after, _ = rewrite(before, convert_opset(18))
    assert after.opsets == {"": 18, "own": 1}
    assert ops(after) == ["ReduceSum", "own::double"]
    assert_same(before, after)


def test_rules_of_a_later_opset_fire_once_the_model_is_there():
    text = f"{IMAGE} {{ h = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x)\n y = Mul(x, h) }}"
    proto = onnx_io.to_proto(lift(text, opset=11))
    result = graphopt.optimize(proto, opset=17)
    assert (result.report.status, result.report.after.operators) == ("equal", {"HardSwish": 1})


@zoo.parametrize(*zoo.distinct())
def test_zoo_is_converted(name):
    lifted = onnx_io.load(zoo.path(name))
    after, _ = rewrite(lifted, convert_opset(max(lifted.opset, 20)))
    assert after.opset >= 20
    onnx.checker.check_model(onnx_io.to_proto(after))


@zoo.parametrize("rapidocr-cls", "silero-op15", "light-squeezenet", "romanizer-arabic-encoder")
def test_zoo_is_equal_after_conversion(name):
    result = graphopt.optimize(zoo.path(name), opset=18)
    assert result.report.status == "equal" and not result.report.rolled_back
    assert {o.version for o in result.model.opset_import if o.domain == ""} == {18}


TEXTS = {
    "Split": ["%p, %q = Split(%x, @p_1=i64[2](1, 3)) {axis=2}", "%y = Concat(%q, %p) {axis=2}"],
    "Slice": ["%y = Slice(%x, @y_1=i64[1](1), @y_2=i64[1](3), @y_3=i64[1](2))"],
    "Clip": ["%y = Clip(%x, @y_1=f32[](-0.5), @y_2=f32[](0.5))"],
    "ReduceSum": ["%y = ReduceSum(%x, @y_1=i64[1](-1))"],
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_of_later_forms(name):
    opset, text = FORMS[name]
    assert check(text, convert_opset(18), opset=opset).splitlines() == [*TEXTS[name], "return %y"]

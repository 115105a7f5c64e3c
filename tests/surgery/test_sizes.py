"""Other sizes of inputs: what the model computes for each part of a batch stays what it was."""

import numpy as np
import pytest
from onnx import parser

import graphopt
from graphopt.errors import InputError, OptionError
from graphopt.surgery import NotValidated
from tests.surgery.nets import X, net, run


def shapes(edited):
    return [v.type.shape for v in (*edited.ir.graph.inputs, *edited.ir.graph.outputs)]


@pytest.mark.parametrize(("key", "size"), [("N", 2), ("batch", 2), ("x:0", 2), ("N", "images"), ("batch", "images")])
def test_a_size_with_a_name_gets_another(key, size):
    edited = graphopt.edit(net(), dims={key: size})
    assert shapes(edited) == [(size, 3, 8, 8), (size, 4), (size, 5)] and edited.status == "equal"
    np.testing.assert_array_equal(run(edited.model, {"x": X})["scores"], run(net(), {"x": X})["scores"])


FLAT = parser.parse_model("""
<ir_version: 8, opset_import: ["": 17]>
g (float[1,4,6] x) => (float[1,4] y, float[24] flat, float[2,12] half)
<int64[4] heads = {1, 4, 2, 3}, int64[3] back = {1, 4, 6}, int64[2] rows = {1, -1}, int64[2] pairs = {4, 6},
 int64[1] all = {24}, int64[2] halves = {2, 12}, int64[3] wide = {1, 4, 6}, float[1,1,1] one = {1.0}>
{
    h = Reshape(x, heads)
    t = Transpose <perm = [0, 2, 1, 3]> (h)
    u = Transpose <perm = [0, 2, 1, 3]> (t)
    b = Reshape(u, back)
    p = Reshape(b, pairs)
    s = Softmax(p)
    q = Reshape(s, back)
    e = Expand(q, wide)
    r = Reshape(e, rows)
    y4 = Reshape(r, back)
    y = ReduceMean <axes = [2], keepdims = 0> (y4)
    flat = Reshape(e, all)
    half = Reshape(e, halves)
}
""")


@pytest.mark.parametrize("size", [3, "N"])
def test_a_batch_that_the_file_fixes_is_freed_with_the_targets_of_its_reshapes(size):
    edited = graphopt.edit(FLAT, dims={"batch": size}, outputs=["y"])
    assert [c.status for c in edited.comparisons] == ["equal", "equal"] and shapes(edited)[0] == (size, 4, 6)
    x = np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32)
    y = run(edited.model, {"x": x})["y"]
    expected = np.concatenate([run(FLAT, {"x": part[None]})["y"] for part in x])
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_where_a_result_mixes_the_batch_it_is_refused():
    mixed = parser.parse_model("""
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1,6] x) => (float[1,6] y) { m = ReduceMax <axes = [0, 1], keepdims = 1> (x) y = Sub(x, m) }""")
    with pytest.raises(NotValidated, match=r"^dims batch=4: the result is different"):
        graphopt.edit(mixed, dims={"batch": 4})
    joined = parser.parse_model("""
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1,2] x) => (float[2,2] y) <float[1,2] c = {1.0, 2.0}> { y = Concat <axis = 0> (x, c) }""")
    with pytest.raises(NotValidated, match="different"):
        graphopt.edit(joined, dims={"x:0": 2})


def test_a_fixed_batch_of_a_convolution_becomes_open():
    edited = graphopt.edit(net(batch=1), dims={"batch": "N"})
    assert shapes(edited) == [("N", 3, 8, 8), ("N", 4), ("N", 5)]
    np.testing.assert_allclose(run(edited.model, {"x": X})["scores"], run(net(), {"x": X})["scores"], rtol=1e-5)


def test_another_image_size_is_taken_where_the_model_runs_on_it():
    edited = graphopt.edit(net(), dims={"x:2": 12, "x:3": 10})
    assert shapes(edited)[0] == ("N", 3, 12, 10) and edited.status == "equal"
    wider = np.random.default_rng(0).random((1, 3, 12, 10), np.float32)
    assert run(edited.model, {"x": wider})["scores"].shape == (1, 5)
    with pytest.raises(NotValidated, match="at the new sizes it does not run"):
        graphopt.edit(net(), dims={"x:1": 4})


def test_a_state_of_zeros_is_no_obstacle():
    model = parser.parse_model("""
    <ir_version: 8, opset_import: ["": 17]>
    g (float[5,1,2] x) => (float[5,1,1,3] y)
    <float[1,9,2] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9}, float[1,9,3] r = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,
     1,2,3,4,5,6,7,8,9}, float[1,1,3] h = {0,0,0}> { y = GRU <hidden_size = 3> (x, w, r, , , h) }""")
    edited = graphopt.edit(model, dims={"x:1": 4})
    assert shapes(edited) == [(5, 4, 2), (5, 1, 4, 3)]


def test_a_size_that_nobody_would_make_up_is_compared_as_well():
    edited = graphopt.edit(net(), dims={"N": 13})
    assert edited.comparisons[0].shapes[0] == {"x": (13, 3, 8, 8)}


def test_sizes_that_the_model_only_claims_to_take_are_refused():
    model = parser.parse_model("""
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N,4] x) => (float[1,2,2] y) <int64[3] fixed = {1, 2, 2}> { y = Reshape(x, fixed) }""")
    with pytest.raises(NotValidated, match="unverified, the model was not seen to run at these sizes"):
        graphopt.edit(model, dims={"N": 2})


def test_first_axes_of_several_names_are_one_batch():
    model = parser.parse_model("""
    <ir_version: 8, opset_import: ["": 17]>
    g (float[M,4] a, float[N,4] b) => (float[P,4] y) { y = Add(a, b) }""")
    assert shapes(graphopt.edit(model, dims={"batch": 2}))[:2] == [(2, 4), (2, 4)]


def test_given_inputs_of_other_sizes_are_left_out():
    edited = graphopt.edit(net(), dims={"N": 1}, feeds=[{"x": X}, {"x": X[:1]}])
    assert edited.comparisons[0].shapes == ({"x": (1, 3, 8, 8)},)


@pytest.mark.parametrize(
    ("dims", "words"),
    [({"M": 2}, "no size 'M'"), ({"x:4": 2}, "has 4 axes"), ({"N": 0}, "positive"), ({"N": "a b"}, "letters"),
     ({"N": True}, "a whole number or text"), ({"y:0": 2}, "did you mean x:0")],
)  # fmt: skip
def test_sizes_that_are_none_are_refused(dims, words):
    with pytest.raises(OptionError, match=words):
        graphopt.edit(net(), dims=dims)


def test_sizes_that_contradict_are_refused():
    two = parser.parse_model("""
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1,4] a, float[2,4] b, float[N,M] c) => (float[1,4] y) { y = Neg(a) }""")
    with pytest.raises(OptionError, match=r"differ in their first size \(a: 1, b: 2"):
        graphopt.edit(two, dims={"batch": 4})
    with pytest.raises(OptionError, match="already"):
        graphopt.edit(two, dims={"N": "M"})
    with pytest.raises((InputError, OptionError)):
        graphopt.edit(two, dims={"a:7": 4})

"""Caches that may be one buffer: equal with and without one, for batches, masks, prompts and steps."""

import numpy as np
import onnxruntime
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.passes.convert import share_caches
from tests.passes.harness import lift, ops, rewrite

HEADS, GROUPS, SIZE, WIDTH, LONGEST = 2, 1, 16, 32, 16
TEXT = """g (
    float[B,S,32] x, int64[B,T] attention_mask, int64[B,S] position_ids, float[B,1,P,16] pk, float[B,1,P,16] pv
  ) => (float[a,b,c] y, float[d,e,f,g0] kc, float[h,i,j,k] vc) <
  int64 zero = {{0}}, int64 second = {{2}}, int64 one = {{1}}, int64[1] z1 = {{0}}, int64[1] i1 = {{1}},
  int64[1] two = {{2}}, int64[2] both = {{1, 2}}, int64[3] sizes = {{32, 16, 16}}, float[8] freq,
  float[32,64] w, float none = {{0.0}}, float low = {{-3.4028234663852886e38}}> {{
  {past}
  ss = Shape<start = 1, end = 2>(x)
  s0 = Squeeze(ss)
  t0 = Add(p0, s0)
  r = Range(zero, s0, one)
  rows = Add(r, p0)
  keys = Range(zero, t0, one)
  ru = Unsqueeze(rows, i1)
  t1 = Reshape(t0, i1)
  kept = Cast<to = 9>(attention_mask)
  part = Slice(kept, z1, t1, i1)
  pu = Unsqueeze(part, both)
  {mask}
  pf = Cast<to = 1>(position_ids)
  p3 = Unsqueeze(pf, two)
  an = Mul(p3, freq)
  co = Cos(an)
  si = Sin(an)
  qkv = MatMul(x, w)
  q0, k0, v = Split<axis = 2>(qkv, sizes)
  {turn}
  y, kc, vc = Attention<q_num_heads = 2, kv_num_heads = 1{more}>(q, k, v, {name}, pk, pv)
}}"""
PAST = {
    "one size": "ps = Shape<start = 2, end = 3>(pk)\n p0 = Squeeze(ps)",
    "gathered": "sh = Shape(pk)\n g2 = Gather(sh, two)\n p0 = Squeeze(g2)",
    "a scalar": "sh = Shape(pv)\n p0 = Gather<axis = 0>(sh, second)",
}
MASK = {
    "truth values": "causal = LessOrEqual(keys, ru)\n allowed = And(causal, pu)",
    "numbers": "causal = LessOrEqual(keys, ru)\n both1 = And(causal, pu)\n allowed = Where(both1, none, low)",
}
TURNS = "q = RotaryEmbedding<num_heads = 2>(q0, co, si)\n k = RotaryEmbedding<num_heads = 1>(k0, co, si)"


def text(past="one size", mask="truth values", turn=TURNS, more="", name="allowed"):
    return TEXT.format(past=PAST[past], mask=MASK.get(mask, mask), turn=turn, more=more, name=name)


def session(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    source = onnx_io.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def feeds(batch, rows, past, mask, seed=0):
    """Inputs of a step; mask: int64[batch, past + rows], which leaves every row a key."""
    rng = np.random.default_rng(seed)
    caches = {name: rng.standard_normal((batch, GROUPS, past, SIZE)).astype(np.float32) for name in ("pk", "pv")}
    positions = np.maximum(mask.cumsum(1) - 1, 0)[:, past:]
    x = rng.standard_normal((batch, rows, WIDTH)).astype(np.float32)
    return {"x": x, "attention_mask": mask, "position_ids": positions, **caches}


def masks(batch, rows, past):
    """All tokens; padding behind; padding in front and holes, where no row is left without a key."""
    every = np.ones((batch, past + rows), np.int64)
    yield every
    behind = every.copy()
    behind[0, -1:] = rows == 1
    yield behind
    front = every.copy()
    front[-1, : max(past - 1, 0)] = 0
    yield front


PLAIN = "q = Identity(q0)\n k = Identity(k0)"
FORMS = [(past, mask, turn) for past in PAST for mask in MASK for turn in (TURNS, PLAIN)]


PARTIAL = TURNS.replace("num_heads", "rotary_embedding_dim = 16, num_heads")
WIDER = (("P,16]", "P,32]"), ("{32, 16, 16}", "{64, 32, 32}"), ("[32,64]", "[32,128]"))


@pytest.mark.parametrize(("past", "mask", "turn"), [*FORMS, ("one size", "truth values", PARTIAL)])
def test_results_are_those_of_attention(past, mask, turn, monkeypatch):
    written = text(past, mask, turn)
    if turn == PARTIAL:  # the operator turns 16 or more elements of a head
        monkeypatch.setattr(f"{__name__}.SIZE", 32)
        for old, new in WIDER:
            written = written.replace(old, new)
    before = lift(written, 23)
    after, changes = rewrite(before, share_caches, target="onnxruntime")
    assert changes == 1 and "Attention" not in ops(after) and "com.microsoft::GroupQueryAttention" in ops(after)
    assert "RotaryEmbedding" not in ops(after)
    first, second = session(before), session(after)
    for batch, rows, earlier in ((1, 1, 7), (1, 6, 0), (2, 1, 8), (2, 6, 0), (2, 4, 7)):
        for given in masks(batch, rows, earlier):
            fed = feeds(batch, rows, earlier, given)
            for x, y in zip(first.run(None, fed), second.run(None, fed)):
                np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("more", [", softcap = 0.0, qk_matmul_output_mode = 0", ", is_causal = 0"])
def test_attributes_that_change_nothing_are_dropped(more):
    before = lift(text(more=more), 23)
    after, changes = rewrite(before, share_caches, target="onnxruntime")
    assert changes == 1 and "Attention" not in ops(after)
    first, second = session(before), session(after)
    for given in masks(2, 4, 7):
        fed = feeds(2, 4, 7, given)
        for x, y in zip(first.run(None, fed), second.run(None, fed)):
            np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-5)


def test_packed_operands_and_rotary_embeddings_are_part_of_the_operator():
    after, _ = rewrite(lift(text(), 23), share_caches, target="onnxruntime")
    assert not {"RotaryEmbedding", "Split", "Attention"} & set(ops(after))


def test_angles_that_no_node_computes_stay_outside():
    written = text().replace("int64[B,S] position_ids", "float[B,S,8] co, float[B,S,8] si")
    start, end = written.index("  pf = Cast"), written.index("  qkv =")
    after, changes = rewrite(lift(written[:start] + written[end:], 23), share_caches, target="onnxruntime")
    assert changes == 1 and ops(after).count("RotaryEmbedding") == 2
    assert ops(after).count("com.microsoft::GroupQueryAttention") == 1


TWO_ANGLES = (
    ("float[B,1,P,16] pv", "float[B,1,P,16] pv, float[B,1,P,16] pk2, float[B,1,P,16] pv2"),
    ("float[h,i,j,k] vc", "float[h,i,j,k] vc, float[l,m,n,o] kc2, float[q1,r1,s1,u1] vc2"),
    ("float[8] freq", "float[8] freq, float[8] freq2"),
    ("y, kc, vc =", """an2 = Mul(p3, freq2)
  co2 = Cos(an2)
  si2 = Sin(an2)
  q2 = RotaryEmbedding<num_heads = 2>(q0, co2, si2)
  k2 = RotaryEmbedding<num_heads = 1>(k0, co2, si2)
  y2, kc2, vc2 = Attention<q_num_heads = 2, kv_num_heads = 1>(q2, k2, v, allowed, pk2, pv2)
  y1, kc, vc ="""),
    ("pk, pv)\n", "pk, pv)\n  y = Add(y1, y2)\n"),
)  # fmt: skip


@pytest.mark.parametrize(("positions", "numberings"), [("B,S", 1), ("C,R", 2)])
def test_layers_of_two_angles_share_what_fills_their_tables(positions, numberings):
    written = text().replace("int64[B,S] position_ids", f"int64[{positions}] position_ids")
    for old, new in TWO_ANGLES:
        assert old in written
        written = written.replace(old, new)
    before = lift(written, 23)
    after, _ = rewrite(before, share_caches, target="onnxruntime")
    counts = [ops(after).count(op) for op in ("ConstantOfShape", "ReduceProd", "com.microsoft::GroupQueryAttention")]
    assert counts == [1, numberings, 2] and "RotaryEmbedding" not in ops(after)
    first, second = session(before), session(after)
    for batch, rows, past in ((1, 1, 7), (2, 1, 8), (1, 6, 0), (2, 4, 7)):
        for given in masks(batch, rows, past):
            fed = feeds(batch, rows, past, given)
            fed |= {"pk2": fed["pv"], "pv2": fed["pk"]}
            for x, y in zip(first.run(None, fed), second.run(None, fed)):
                np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_one_buffer_for_earlier_and_present_keys_gives_the_results_of_growing_caches(batch):
    before = lift(text(), 23)
    after, _ = rewrite(before, share_caches, target="onnxruntime")
    first, second = session(before), session(after)
    shape = (batch, GROUPS, LONGEST, SIZE)
    buffers = [onnxruntime.OrtValue.ortvalue_from_numpy(np.full(shape, np.nan, np.float32)) for _ in range(2)]
    grown = [np.zeros((batch, GROUPS, 0, SIZE), np.float32)] * 2
    length = 0
    for rows in (5, 1, 1, 3):
        length += rows
        fed = feeds(batch, rows, length - rows, np.ones((batch, length), np.int64), seed=rows)
        fed |= dict(zip(("pk", "pv"), grown))
        expected, *grown = first.run(None, fed)
        binding = second.io_binding()
        for name in ("x", "attention_mask", "position_ids"):
            binding.bind_cpu_input(name, fed[name])
        for past, present, buffer in zip(("pk", "pv"), ("kc", "vc"), buffers):
            binding.bind_ortvalue_input(past, buffer)
            binding.bind_ortvalue_output(present, buffer)
        binding.bind_output("y")
        second.run_with_iobinding(binding)
        found = next(one.numpy() for one in binding.get_outputs() if len(one.shape()) == 3)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        for buffer, cache in zip(buffers, grown):
            np.testing.assert_allclose(buffer.numpy()[:, :, :length], cache, rtol=1e-4, atol=1e-5)
            assert np.isnan(buffer.numpy()[:, :, length:]).all()


STAYS = {
    "no mask counts the tokens": text().replace("attention_mask", "kept_tokens"),
    "keys that follow are not masked": text(mask="l = LessOrEqual(keys, keys)\n allowed = And(l, pu)"),
    "no mask at all": text(name='""'),
    "the shape of a cache is read as a whole": text().replace(
        PAST["one size"], "sh = Shape(pk)\n ps = Slice(sh, two, whole3)\n p0 = Squeeze(ps)"
    ).replace("int64[2] both", "int64[1] whole3 = {3}, int64[2] both"),
    "a window of numbers of its own": text(more=", softcap = 2.0"),
    "a cache that another node reads": text(turn=TURNS + "\n pn = Neg(pk)").replace("v, allowed, pk", "v, allowed, pn"),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_other_models_stay(name):
    before = lift(STAYS[name], 23)
    after, changes = rewrite(before, share_caches, target="onnxruntime")
    assert changes == 0 and ops(after) == ops(before)


WINDOW = """far = Squeeze(limit)
  near = Sub(ru, far)
  causal0 = LessOrEqual(keys, ru)
  inside = Less(near, keys)
  causal = And(causal0, inside)
  allowed = And(causal, pu)"""
COMPARED = {"LessOrEqual", "Less"}


def test_of_causal_masks_only_what_pads_is_computed():
    after, _ = rewrite(lift(text(), 23), share_caches, target="onnxruntime")
    assert not COMPARED & set(ops(after)) and ops(after).count("Where") == 1


@pytest.mark.parametrize("limit", [2, 500])
def test_windows_stay_masks_however_long(limit):
    before = lift(text(mask=WINDOW).replace("int64[1] two", f"int64[1] limit = {{{limit}}}, int64[1] two"), 23)
    after, changes = rewrite(before, share_caches, target="onnxruntime")
    assert changes == 1 and set(ops(after)) >= COMPARED
    first, second = session(before), session(after)
    for rows, earlier in ((1, 7), (6, 0), (1, 520)):
        fed = feeds(1, rows, earlier, np.ones((1, rows + earlier), np.int64))
        for x, y in zip(first.run(None, fed), second.run(None, fed)):
            np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-5)


def test_only_for_onnxruntime():
    assert rewrite(lift(text(), 23), share_caches)[1] == 0


def test_the_result_is_compared_where_its_rows_are_defined():
    model = onnx_io.to_proto(lift(text(), 23))
    result = graphopt.optimize(model, passes=["share-caches"], target="onnxruntime")
    assert result.report.status == "equal" and not result.report.rolled_back
    assert "com.microsoft::GroupQueryAttention" in {node.op for node in result.ir.graph}

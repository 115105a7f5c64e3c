"""Seeded weights for networks that have none: He initialisation, and BatchNorm statistics measured on inputs.

`he_initialised` takes a model whose weights are made by ConstantOfShape nodes (as in onnx's own "light" test
models) and stores generated ones as initializers instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper

FloatArray = npt.NDArray[np.float32]
BATCH_NORM_ROLES = {1: "scale", 2: "shift", 3: "mean", 4: "variance"}


def he_normal(rng: np.random.Generator, shape: Iterable[int], fan_in: int) -> FloatArray:
    """Normal with variance 2 / fan_in (He et al. 2015)."""
    return rng.standard_normal(tuple(shape), np.float32) * np.float32(np.sqrt(2 / max(fan_in, 1)))


def filled(rng: np.random.Generator, role: str, shape: tuple[int, ...]) -> FloatArray:
    """Values for a tensor that plays `role`: weight, matrix, scale, shift, mean or variance."""
    if role == "weight":
        return he_normal(rng, shape, int(np.prod(shape[1:])))
    if role == "matrix":
        return he_normal(rng, shape, shape[-2] if len(shape) > 1 else shape[0])
    if role == "scale":
        return rng.uniform(0.7, 1.3, shape).astype(np.float32)
    if role == "variance":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return rng.standard_normal(shape, np.float32) * np.float32(0.1)


def roles(graph: onnx.GraphProto) -> dict[str, str]:
    """What each value is to its first user (nested graphs included), in the words of `filled`."""
    users: dict[str, tuple[onnx.NodeProto, int]] = {}
    for node in _nodes(graph):
        for slot, name in enumerate(node.input):
            users.setdefault(name, (node, slot))
    return {name: _role(users, name) for name in users}


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _role(users: dict[str, tuple[onnx.NodeProto, int]], name: str) -> str:
    node, slot = users.get(name, (onnx.NodeProto(), 0))
    if node.op_type in ("Unsqueeze", "Reshape") and slot == 0:
        return _role(users, node.output[0])
    if node.op_type == "BatchNormalization":
        return BATCH_NORM_ROLES.get(slot, "shift")
    if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and slot == 1:
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        return "weight" if node.op_type.startswith("Conv") or transposed else "matrix"
    return "scale" if node.op_type == "Mul" else "shift"


def he_initialised(
    model: onnx.ModelProto, seed: int, images: Callable[[int], dict[str, FloatArray]]
) -> onnx.ModelProto:
    """A copy of `model` with every ConstantOfShape weight replaced by a stored, seeded one.

    `images(seed)` gives feeds of batch 1; BatchNorm statistics are those measured on four of them, and the last layer
    is centred and scaled on them, so that activations keep their size and the most likely class depends on the input.
    """
    model = _with_stored_weights(model, np.random.default_rng(seed))
    samples = [images(seed + k) for k in range(4)]
    _measure_batch_norms(model, samples)
    _spread_logits(model, samples)
    onnx.checker.check_model(model)
    return model


def _with_stored_weights(model: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    makers = [n for n in graph.node if n.op_type == "ConstantOfShape" and n.input[0] in shapes]
    role = roles(graph)
    kept = [n for n in graph.node if n not in makers]
    del graph.node[:]
    graph.node.extend(kept)
    for maker in makers:
        shape = tuple(int(d) for d in shapes[maker.input[0]])
        values = filled(rng, role[maker.output[0]], shape)
        graph.initializer.append(numpy_helper.from_array(values, maker.output[0]))
    used = {name for node in graph.node for name in node.input}
    stored = [t for t in graph.initializer if t.name in used]
    inputs = [v for v in graph.input if v.name not in shapes]
    del graph.initializer[:], graph.input[:]
    graph.initializer.extend(stored)
    graph.input.extend(inputs)
    copy.ir_version = max(copy.ir_version, 4)  # before, each initializer is an input too
    return copy


def _evaluate(model: onnx.ModelProto, feeds: dict[str, FloatArray], names: list[str]) -> list[FloatArray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: list[FloatArray] = session.run(names, feeds)
    return result


def _measure_batch_norms(model: onnx.ModelProto, samples: list[dict[str, FloatArray]]) -> None:
    """Sets mean and variance of every BatchNormalization to those of its input, each measured after the layers before.

    One run does it: the norms are spelled out with the statistics of the batch at hand.
    """
    norms = [n for n in model.graph.node if n.op_type == "BatchNormalization"]
    if not norms:
        return
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.node[:]
    for node in model.graph.node:
        probe.graph.node.extend(_spelled_out(node) if node.op_type == "BatchNormalization" else [node])
    wanted = [f"{n.output[0]}/{kind}" for n in norms for kind in ("mean", "variance")]
    probe.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in wanted)
    measured = [_evaluate(probe, feeds, wanted) for feeds in samples]
    mean = {name: np.mean([run[k].ravel() for run in measured], axis=0) for k, name in enumerate(wanted)}
    stored = {t.name: t for t in model.graph.initializer}
    for node in norms:
        for slot, kind in ((3, "mean"), (4, "variance")):
            target = stored[node.input[slot]]
            target.CopyFrom(numpy_helper.from_array(mean[f"{node.output[0]}/{kind}"], target.name))


def _spelled_out(norm: onnx.NodeProto) -> list[onnx.NodeProto]:
    x, scale, shift = norm.input[:3]
    out = norm.output[0]
    axes = {"axes": [0, 2, 3], "keepdims": 1}
    return [
        helper.make_node("ReduceMean", [x], [f"{out}/mean"], **axes),
        helper.make_node("Sub", [x, f"{out}/mean"], [f"{out}/centred"]),
        helper.make_node("Mul", [f"{out}/centred", f"{out}/centred"], [f"{out}/square"]),
        helper.make_node("ReduceMean", [f"{out}/square"], [f"{out}/variance"], **axes),
        helper.make_node("InstanceNormalization", [x, scale, shift], [out], epsilon=1e-5),  # the same for one image
    ]


def _spread_logits(model: onnx.ModelProto, samples: list[dict[str, FloatArray]]) -> None:
    """Centres each class of the last layer on the samples and gives the differences between images a deviation of 2."""
    head = next(n for n in reversed(model.graph.node) if n.op_type in ("Conv", "Gemm"))
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(helper.make_tensor_value_info(head.output[0], onnx.TensorProto.FLOAT, None))
    logits = np.stack([_evaluate(probe, feeds, [head.output[0]])[0][0] for feeds in samples])
    logits = logits.reshape(*logits.shape[:2], -1).mean(axis=2)
    gain = np.float32(2) / max(float((logits - logits.mean(axis=0)).std()), 1e-6)
    stored = {t.name: t for t in model.graph.initializer}
    maker = {n.output[0]: n for n in model.graph.node}
    names = list(head.input[1:3])
    for i in range(len(names)):
        while names[i] not in stored:  # a weight that is reshaped first
            names[i] = maker[names[i]].input[0]
    weight, bias = (numpy_helper.to_array(stored[name]) for name in names)
    centre = logits.mean(axis=0).reshape(bias.shape)
    for name, values in ((names[0], weight * gain), (names[1], (bias - centre) * gain)):
        stored[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))

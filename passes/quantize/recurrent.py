"""Recurrent layers: weights stored as codes in any runtime; onnxruntime also runs LSTM on them (DynamicQuantizeLSTM).

ONNX has no integer form of a recurrent layer, so in mode "static", and for other targets, they stay float.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from ...calibration import shapes_at
from ...compress.choices import FLOAT32, chosen_for, layer_names, word_of
from ...compress.context import StageContext
from ...compress.report import StageReport
from ...compress.speed import GAIN, Speed, is_clear, kept_speeds, pair_key, stable_timings
from ...errors import Declined
from ...ir import DType, Model, Node, Value, clone_model
from ...measure import figures, macs_at, macs_values
from ...onnx_io import is_large
from ...ops import attr
from .candidates.feeds import timing_feed
from .candidates.units import RECURRENT, check_wanted
from .emit.constants import constant, dequantized, stored_codes
from .numerics.grids import nonzero_scales, weight_scale, worst_pair
from .numerics.rounding import nearest_codes
from .numerics.solve import FLOAT_PRODUCTS, pair_certificate, pair_safety
from .options import Quantize
from .place.accuracy_guard import is_good_enough
from .place.latency_guard import PREDICTED_GAIN, needed_gain
from .report import NO_GAIN, RETURNED_TO_FLOAT, QuantizedLayer, QuantizedParts, QuantizeFigures

SMALL = 4096
"""Weight elements below which a layer stays float: it would save less than 12 KB."""
DYNAMIC = "com.microsoft::DynamicQuantizeLSTM"


def quantize_recurrent(model: Model, options: Quantize, context: StageContext) -> QuantizedParts:
    """Quantize the recurrent layers of the root graph in a copy, kept where it is good enough, and gains time (for
    stored weights: bytes)."""
    if not any(node.op in RECURRENT for node in model.graph):
        return QuantizedParts(model, (), ())
    refused: list[tuple[str, str]] = []
    layers: list[QuantizedLayer] = []
    copy = clone_model(model)
    names, word, settled = layer_names(copy.graph), word_of(options.mode, 8), dict[str, str]()
    choices = chosen_for(names, options.layers)
    chosen: list[Node] = []
    for original, node in zip(model.graph.snapshot(), copy.graph.snapshot()):
        if node.op not in RECURRENT:
            continue
        name = node.name or node.output.name or node.op
        try:
            _check(node, name, options, context.target)
            if choices.get(node) == FLOAT32:
                settled[names[node]] = FLOAT32
                raise Declined("float32 was chosen for it", node)
        except Declined as declined:
            refused.append((name, declined.reason))
            continue
        settled[names[node]] = word
        chosen.append(original)
        worst: int | None = None
        if options.mode == "weights":
            _store(copy, node, options, context.target == "onnxruntime" and not is_large(model))
        else:
            worst = _run_on_codes(copy, node, options, context.target)
        exact = FLOAT_PRODUCTS if worst is None else pair_certificate(worst, options, context.target)
        layers.append(QuantizedLayer(name, node.op, "int8", 8, worst_pair=worst, certificate=exact))
    if not layers:
        return QuantizedParts(model, (), tuple(refused), choices=settled)
    speedup, reason = None, ""
    if all(choices.get(node) == word for node, name in names.items() if settled.get(name) == word):
        reason = ""
    elif not is_good_enough(copy, options, context):
        reason = RETURNED_TO_FLOAT
    elif options.speed:
        speed, needed = _speed(model, copy, context), needed_gain(options.mode)
        speedup = speed.ratio
        reason = "" if speedup >= (PREDICTED_GAIN if speed.is_predicted and needed == GAIN else needed) else NO_GAIN
    if reason:
        refusals = (*refused, *((layer.name, reason) for layer in layers))
        return QuantizedParts(model, (), refusals, choices=dict.fromkeys(settled, FLOAT32))
    pace = "" if speedup is None else f", {speedup:.2f}× as fast with them as without"
    macs = macs_at(model, {} if is_large(model) else shapes_at(model, macs_values(model), timing_feed(context)))
    share = sum(macs[node] for node in chosen) / (sum(macs.values()) or 1)
    facts = QuantizeFigures(layers=len(layers), share_of_macs=share)
    report = StageReport("recurrent layers", f"{len(layers)} in int8{pace}", tuple(layers), facts)
    return QuantizedParts(copy, ((report, figures(model).macs),), tuple(refused), speedup, settled)


def _check(node: Node, name: str, options: Quantize, target: str) -> None:
    """Declined where a recurrent layer stays float."""
    check_wanted(node, name, options)
    weights = (node.constant(1), node.constant(2))
    if not all(w is not None and w.dtype is DType.FLOAT and np.isfinite(w.array()).all() for w in weights):
        raise Declined("its weights are not float32 constants", node)
    if sum(w.size for w in weights if w is not None) < SMALL:
        raise Declined("its weights are few", node)
    if options.mode == "static":
        raise Declined(f"{node.op} has no static integer form", node)
    if options.mode == "dynamic" and (node.op != "LSTM" or target != "onnxruntime"):
        raise Declined("only LSTM runs on integers, and only for target onnxruntime", node)
    if options.mode == "dynamic" and int(attr(node, "layout", 0)):
        raise Declined("its layout is batch first", node)


def _store(model: Model, node: Node, options: Quantize, at_load: bool) -> None:
    """W = DequantizeLinear(codes), or the same numbers computed as the model loads; one scale for each row of a gate,
    which both directions share."""
    for slot in (1, 2):
        value, weight = node.inputs[slot], node.constant(slot)
        assert value is not None and weight is not None
        array = np.asarray(weight.array())  # [directions, gates · hidden, inputs]
        scale = nonzero_scales(np.abs(array).max(axis=(0, 2)) / np.float32(127))
        codes = np.clip(np.rint(array / scale[None, :, None]), -127, 127).astype(np.int8)
        read = dequantized(model.graph, node, codes, scale, 1, value.name, dtype=options.weight_dtype, at_load=at_load)
        model.graph.set_input(node, slot, read)


def _run_on_codes(model: Model, node: Node, options: Quantize, target: str) -> int:
    """The node as DynamicQuantizeLSTM, whose weights are [directions, inputs, 4 · hidden]; the worst pair of codes."""
    graph, operands, worst = model.graph, list(node.inputs[1:3]), 0
    scales: list[Value] = []
    for slot, value in enumerate(operands):
        assert value is not None and value.constant is not None
        weight = np.asarray(value.constant.array())  # [directions, 4 · hidden, inputs]
        scale, low, high = weight_scale(weight, 8, pair_safety(options, target))
        if not options.per_channel:
            scale = np.broadcast_to(scale.max(axis=1, keepdims=True), scale.shape)
        codes = nearest_codes(weight, scale[..., None], low, high)
        worst = max(worst, worst_pair(codes))
        scale = scale if options.per_channel else scale[:, 0]
        stored, zero_point = stored_codes(codes.transpose(0, 2, 1).copy(), options.weight_dtype)
        operands[slot] = constant(stored, value.name, "codes")
        zero = np.full(scale.shape, zero_point, stored.dtype)
        scales += [constant(np.ascontiguousarray(scale), value.name, "scale"), constant(zero, value.name, "zero")]
    rest = [node.input(slot) for slot in range(3, 8)]
    types = [value.type for value in node.outputs]
    attrs = {name: value for name, value in node.attrs.items() if name != "layout"}
    new = Node(DYNAMIC, (node.inputs[0], *operands, *rest, *scales), attrs, types, name=node.name)
    new.origins, new.made_by = node.origins, "quantize"
    graph.insert_before(node, new)
    for old, value in zip(node.outputs, new.outputs):
        value.name = old.name
        graph.replace_uses(old, value)
    graph.erase(node)
    model.opsets.setdefault("com.microsoft", 1)
    return worst


def _speed(model: Model, quantized: Model, context: StageContext) -> Speed:
    feed = timing_feed(context)
    key = pair_key(model, quantized, feed, context.target)
    times = partial(stable_timings, feed=feed)
    return kept_speeds(model, {key: lambda: quantized}, feed, context.target, times, is_clear)[key]

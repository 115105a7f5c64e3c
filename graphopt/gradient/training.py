"""A whole training step as one ONNX model: loss, gradients and the optimizer's update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..arguments import check_arguments
from ..errors import Declined, ModelError, OptionError
from ..ir import Array, DType, Model, Port, TensorType, Value
from ..onnx_io import to_proto
from .blocked import use_blocks
from .differentiate import is_float, look_up
from .folding import fold_batch_normalizations
from .losses import LOSSES, Loss, look_up_loss
from .optimizers import Optimizer, look_up_optimizer
from .prepare import prepare
from .reverse import gradients
from .tensor import Tensor, Writer
from .weights import chosen_weights, initial

if TYPE_CHECKING:
    import onnx

    from ..onnx_io.source import ModelSource

Losses = str | Loss | Mapping[str, str | Loss]
"""Values of `loss=`: one loss for all outputs, or losses by output."""
RATE, STEP, LOSS, NEW = "learning_rate", "step", "loss", ".new"
"""Names in a training step: two inputs beside data, weights and state; the first output; the others' suffix."""


@dataclass(frozen=True)
class Step:
    """A training step. model: the step in the IR. weights: their initial tensors. state: types of its tensors, by
    name."""

    model: Model
    weights: dict[str, Array]
    state: dict[str, TensorType]


def training_step(
    model: ModelSource | Model, wrt: Sequence[str] | None = None, *, loss: Losses = "mse",
    optimizer: str | Optimizer = "adamw",
) -> onnx.ModelProto:  # fmt: skip
    """A model of one training step, which onnxruntime runs: batch, weights and state in, loss, weights and state out.

    wrt: names of the initializers to train; by default all weights, biases, scales and embeddings that the loss depends
    on, not the statistics of BatchNormalization. All others are frozen: constants of the step.
    loss: "mse", "cross_entropy" (over the last axis), "kl" or a `Loss` such as `KL(temperature=2)` for every float
    output, their sum being minimised; or a mapping from outputs to losses, which ignores all other outputs; or the name
    of an output that is itself a loss. optimizer: "sgd", "adam", "adamw", or `SGD(momentum=0.9)` and the like.

    Inputs: those of the model; `<output>.target`; `learning_rate` f32[]; `step` i64[], the number of steps done; for
    each weight `<name>`, and `<name>.momentum` and `<name>.square` if the optimizer uses them, zero at first. Outputs:
    `loss` f32[] before the step, and `<input>.new` for `step`, each weight and its state.

    Dropout does nothing and BatchNormalization uses its statistics, as at inference.

    OptionError for unknown names and words; ModelError, naming node and operator, where a node between weights and
    losses has no gradient.
    """
    check_arguments(training_step, locals())
    return to_proto(build_step(model, wrt, loss, optimizer).model)


def build_step(
    source: ModelSource | Model, wrt: Sequence[str] | None, loss: Losses, optimizer: str | Optimizer, block: int = 0
) -> Step:
    """`training_step` in the IR, with initial weights and state types. block: see `Writer`, for this machine alone."""
    rules = look_up_optimizer(optimizer)
    model = prepare(source)
    graph = model.graph
    writer = Writer(graph, block)
    seeded = _losses(model, loss)
    weights = chosen_weights(model, [y for y, _, _ in seeded], wrt)
    start = {name: tensor.array() for name, v in weights.items() if (tensor := initial(v)) is not None}
    own = {name: _as_input(model, name, value) for name, value in weights.items()}
    fold_batch_normalizations(graph)
    try:
        total = _total(writer, seeded)
        found = gradients(writer, {total.value: total.filled(1.0)}, list(own.values()))
        rate, step = (
            _input(writer, RATE, TensorType(DType.FLOAT, ())),
            _input(writer, STEP, TensorType(DType.INT64, ())),
        )
        ahead = step + 1
        scalars = rules.scalars(rate.cast(DType.DOUBLE), ahead.cast(DType.DOUBLE))
        results: dict[str, Tensor] = {LOSS: total.cast(DType.FLOAT), STEP + NEW: ahead}
        state: dict[str, TensorType] = {}
        shared: dict[tuple[DType, int], list[Tensor]] = {}  # shared scalars by element type and rank
        for (name, value), g in zip(own.items(), found):
            w = Tensor(writer, value)
            wide = DType.DOUBLE if w.dtype is DType.DOUBLE else DType.FLOAT
            types = {f"{name}.{kind}": TensorType(wide, w.type.shape) for kind in rules.state}
            state.update(types)
            kept = [_input(writer, n, t) for n, t in types.items()]
            slope = w.zeros() if g is None else g
            if (wide, w.rank) not in shared:
                shared[wide, w.rank] = [s.cast(wide).reshape([1] * w.rank) for s in scalars]
            numbers = shared[wide, w.rank]
            new, more = rules.update(w.cast(wide), slope.cast(wide), kept, numbers)
            results[name + NEW] = new.cast(w.dtype)
            results.update(zip((n + NEW for n in types), more))
    except Declined as declined:
        raise ModelError(f"no training step: {declined.reason}") from declined
    _set_outputs(model, results)
    if block:
        use_blocks(model, block)
    return Step(model, start, state)


def _losses(model: Model, loss: Losses) -> list[tuple[Value, str, Loss | None]]:
    """The minimized outputs, with name and loss; a loss of None for an output that is itself a loss."""
    results = {port.name: value for port, value in zip(model.graph.ports, model.graph.outputs)}
    if isinstance(loss, str) and loss not in LOSSES and loss in results:
        return [(look_up(results, loss, "output"), loss, None)]
    given = loss if isinstance(loss, Mapping) else {name: loss for name, v in results.items() if is_float(v)}
    if not given:
        raise OptionError("the model has no float output, or loss names none")
    return [(look_up(results, name, "output"), name, look_up_loss(part)) for name, part in given.items()]


def _total(writer: Writer, seeded: Sequence[tuple[Value, str, Loss | None]]) -> Tensor:
    """The sum of all losses, a scalar."""
    total: Tensor | None = None
    for value, name, loss in seeded:
        y = Tensor(writer, value)
        if loss is None:
            part = y
        else:
            kind = getattr(loss, "target_type", None)
            target = _input(writer, f"{name}.target", y.type if kind is None else kind(y.type))
            part = loss(y, target)
        part = part if part.type.rank == 0 else part.sum()
        total = part if total is None else total + part.cast(total.dtype)
    assert total is not None
    return total


def _as_input(model: Model, name: str, value: Value) -> Value:
    """The weight as an input of the model."""
    if value.constant is None:
        value.default = None
        return value
    made = Value(value.type)
    model.graph.replace_uses(value, made)
    made.name = name
    return model.graph.add_input(made)


def _input(writer: Writer, name: str, type: TensorType) -> Tensor:
    """Add an input. OptionError where the model has an input of that name."""
    if any(v.name == name for v in writer.graph.inputs):
        raise OptionError(f"the model has an input {name!r}, which is a name of the training step: rename it")
    return Tensor(writer, writer.graph.add_input(Value(type, name)))


def _set_outputs(model: Model, results: Mapping[str, Tensor]) -> None:
    """Set the outputs to `results` alone, and erase nodes that only the model's own outputs needed."""
    graph = model.graph
    values: list[Value] = []
    for name, t in results.items():
        own = t.value if t.value.producer is not None and t.value not in values else t.Identity().value
        own.name = name
        values.append(own)
    graph.set_outputs(values, [Port(v.name, v.type) for v in values])
    for node in reversed(graph.snapshot()):
        if all(v.is_unused for v in node.outputs):
            graph.erase(node)

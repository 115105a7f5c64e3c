"""The loop around a training step: onnxruntime runs the step, weights and state stay in its buffers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..analysis.liveness import Liveness
from ..arguments import check_arguments
from ..errors import InputError, ModelError, OptionError, one_line
from ..ir import Array, Constant, DType, Model, TensorType, clone_model
from ..machine.memory import free_memory
from ..machine.sessions import open_session, session_options
from ..onnx_io import load, to_proto
from .blocked import block_size
from .differentiate import named_values
from .optimizers import Optimizer
from .training import LOSS, NEW, RATE, STEP, Losses, build_step

if TYPE_CHECKING:
    import onnx

    from ..onnx_io.source import ModelSource


class Trainer:
    """Trains the weights of an ONNX model in onnxruntime.

    `trainer.step({"x": x, "y.target": t}, 1e-3)` runs one step and returns its loss; `trainer.model()` is the original
    model with the current weights. Arguments are those of `training_step`; threads: within an operator, 0 for all
    cores; memory: bytes that a step may take beside weights and state, by default the memory free when shapes are first
    seen. A step that fails, or whose loss is not finite, leaves weights and state unchanged.
    """

    def __init__(
        self, model: ModelSource | Model, wrt: Sequence[str] | None = None, *, loss: Losses = "mse",
        optimizer: str | Optimizer = "adamw", threads: int = 1, memory: int | None = None,
    ) -> None:  # fmt: skip
        check_arguments(Trainer.__init__, locals())
        import onnxruntime

        self._original = clone_model(model) if isinstance(model, Model) else load(model, infer=False)
        made = build_step(clone_model(self._original), wrt, loss, optimizer, block_size())
        self.weights: tuple[str, ...] = tuple(made.weights)
        """The names of the trained weights."""
        self._values = named_values(self._original)
        for name in self.weights:
            if name not in self._values:
                raise OptionError(f"{name!r} is no initializer of the original model, but one of its converted form")
        settings = session_options(threads=threads, folder=made.model.folder)
        self._session = open_session(to_proto(made.model).SerializeToString(), settings)
        self._to_ort: Callable[[Array], Any] = onnxruntime.OrtValue.ortvalue_from_numpy
        self._names = [o.name for o in self._session.get_outputs()]
        state = {name: np.zeros(_sizes(type), type.dtype.numpy) for name, type in made.state.items()}
        start = {**made.weights, **state, STEP: np.zeros((), np.int64)}
        self._held = {name: self._to_ort(np.array(array, order="C")) for name, array in start.items()}
        self._types = {v.name: v.type for v in made.model.graph.inputs if v.name not in self._held and v.name != RATE}

        self._liveness, self._memory, self._seen = Liveness(made.model.graph), memory, set[tuple[Any, ...]]()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of each step's feeds: the model's inputs and the targets."""
        return tuple(self._types)

    @property
    def steps(self) -> int:
        """The number of steps done."""
        return int(self._held[STEP].numpy())

    def step(self, feeds: Mapping[str, Any], learning_rate: float = 1e-3) -> float:
        """Run one step on one batch; returns the loss before the update.

        InputError for feeds that do not fit, or need more memory than available, and for a non-finite loss.
        """
        arrays = {name: self._array(name, feeds) for name in self._types}
        self._check_memory(arrays)
        given = {name: self._to_ort(array) for name, array in arrays.items()}
        unknown = [name for name in feeds if name not in self._types]
        if unknown:
            raise InputError(f"the training step has no input {unknown[0]!r}; it has {', '.join(self._types)}")
        given[RATE] = self._to_ort(np.array(learning_rate, np.float32))
        try:
            made = dict(zip(self._names, self._session.run_with_ort_values(self._names, {**self._held, **given})))
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise InputError(f"step {self.steps + 1} does not run: {one_line(error)}") from error
        loss = float(made[LOSS].numpy())
        if not math.isfinite(loss):
            raise InputError(f"the loss of step {self.steps + 1} is {loss}; weights are left as they were")
        self._held = {name: made[name + NEW] for name in self._held}
        return loss

    def fit(
        self, batches: Iterable[Mapping[str, Any]], learning_rate: float | Callable[[int], float] = 1e-3,
        steps: int | None = None,
    ) -> list[float]:  # fmt: skip
        """Run a step for each batch, or `steps` of them; returns their losses. learning_rate: a number, or a schedule:
        a function of the steps done.

        InputError for batches that end before `steps` or cannot be read; earlier updates stay.
        """
        rate = learning_rate if callable(learning_rate) else lambda step: learning_rate
        losses: list[float] = []
        given = iter(batches)
        while steps is None or len(losses) < steps:
            try:
                batch = next(given)
            except StopIteration:
                break
            except Exception as error:  # the caller's reader may raise anything
                done = f"weights are those of step {self.steps}"
                raise InputError(f"batch {len(losses) + 1} cannot be read: {one_line(error)}; {done}") from error
            losses.append(self.step(batch, rate(self.steps)))
        if steps is not None and len(losses) < steps:
            end = f"the data end after {len(losses)} of {steps} batches"
            raise InputError(f"{end}; weights are those of step {self.steps}")
        return losses

    def state(self) -> dict[str, Array]:
        """Copies of weights, optimizer state and count of steps, by name: the argument of `restore`."""
        return {name: np.array(value.numpy()) for name, value in self._held.items()}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Resume from a `state()`. InputError where names or shapes differ from this trainer's."""
        for name, value in self._held.items():
            if name not in state:
                raise InputError(f"the state has no {name!r}")
            if tuple(np.shape(state[name])) != tuple(value.shape()):
                raise InputError(f"the state's {name!r} is {np.shape(state[name])} instead of {tuple(value.shape())}")
        self._held = {
            name: self._to_ort(np.array(state[name], value.numpy().dtype, order="C"))
            for name, value in self._held.items()
        }

    def model(self) -> onnx.ModelProto:
        """The original model with the current weights; all else, frozen weights included, is unchanged."""
        copy = clone_model(self._original)
        named = named_values(copy)
        for name in self.weights:
            value, array = named[name], np.array(self._held[name].numpy())
            if value.constant is None:
                value.default = Constant.of(array)
            else:
                value.constant = Constant.of(array)
        return to_proto(copy)

    def _check_memory(self, arrays: Mapping[str, Array]) -> None:
        """InputError where a step on arrays of new shapes needs more memory than allowed."""
        shapes = tuple(a.shape for a in arrays.values())
        if shapes in self._seen:
            return
        free = free_memory() if self._memory is None else self._memory
        sizes: dict[str, int] = {}
        for name, array in arrays.items():
            kind = self._types[name]
            dims = kind.shape if isinstance(kind, TensorType) and kind.shape is not None else ()
            sizes.update((d, n) for d, n in zip(dims, array.shape) if isinstance(d, str))
        need = self._liveness.peak(sizes)
        if free is not None and need > free:
            told = (
                f"a step on these sizes takes about {need / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB of memory are there"
            )
            raise InputError(f"{told}: give smaller batches, or name fewer weights in wrt")
        self._seen.add(shapes)

    def _array(self, name: str, feeds: Mapping[str, Any]) -> Array:
        """The feed of an input; floats in another precision and integers of another width are converted."""
        if name not in feeds:
            raise InputError(f"the feed has no {name!r}; a training step needs {', '.join(self._types)}")
        array, type = np.asarray(feeds[name]), self._types[name]
        if not isinstance(type, TensorType):
            raise ModelError(f"input {name!r} is no tensor")
        alike = (array.dtype.kind == "f" and type.dtype.is_float) or (
            array.dtype.kind in "iu" and type.dtype.is_integer
        )
        if type.dtype is not DType.of(array.dtype) and not alike:
            raise InputError(f"{name!r} is {array.dtype}, and the training step takes {type}")
        return np.array(array, type.dtype.numpy, order="C")


def _sizes(type: TensorType) -> tuple[int, ...]:
    if type.sizes is None:
        raise ModelError(f"a weight of unknown shape {type}")
    return type.sizes

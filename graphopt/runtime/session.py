"""`graphopt.Session`: the face of `onnxruntime.InferenceSession` over kernel regions and onnxruntime segments."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, ModelError, OptionError
from ..ir import Constant, DType, Model, Node, TensorType, Value
from .decisions import Decisions, region_digest
from .emission import Memory
from .lowering import lower
from .operands import constant_array
from .operations import PRODUCTS, Coverage, Operation
from .partition import Segment, partition
from .regions import Region
from .segments import StockSegment, abandon, stock_session
from .types import ORT_NAMES, complete_types
from .workers import Team

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class NodeArg:
    """An input or output: name, type in onnxruntime's words such as `tensor(float)`, shape of ints, names and None."""

    name: str
    type: str
    shape: list[int | str | None]


@dataclass(frozen=True, slots=True)
class DescribedPart:
    """One line of `Session.describe`: where units run, how many, and why not on kernels."""

    where: str
    operators: dict[str, int]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Description:
    """What runs where. `str()` makes it a table."""

    parts: tuple[DescribedPart, ...]

    def __str__(self) -> str:
        lines = []
        for index, part in enumerate(self.parts):
            counts = ", ".join(f"{name} {count}" for name, count in sorted(part.operators.items()))
            lines.append(f"{index:3}  {part.where:12} {counts}" + (f"  ({part.reason})" if part.reason else ""))
        return "\n".join(lines)


class Session:
    """Runs a model: what the kernels cover as compiled programs, the rest in onnxruntime.

    `model` is a path, bytes, an `onnx.ModelProto`, an `onnx_ir.Model` or graphopt's own IR, in float32, QDQ, QOperator
    or dynamically quantized form. `threads` share each step (the machine's CPUs by default). `memory="small"` keeps
    Winograd weights as they are and transforms them during each run. Several threads may call it, and forked children.

    Raises ModelError for an unusable model, OptionError for unusable options.
    """

    def __init__(
        self, model: Any, threads: int | None = None, *, memory: Memory = "fast", kernels: bool | None = None
    ) -> None:
        """`kernels` True runs every region on kernels, False none, None where no measurement speaks against it."""
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise OptionError(f"threads must be a positive number, got {threads!r}")
        if memory not in ("fast", "small"):
            raise OptionError(f"memory must be 'fast' or 'small', got {memory!r}")
        self.threads = threads or _cpus()
        self._model = _lifted(model)
        self._source = model
        self._team = Team(self.threads)
        self._pid = os.getpid()
        if kernels is not False:
            complete_types(self._model)
        self._coverage = Coverage() if kernels is False else lower(self._model.graph)
        self._segments = partition(self._model.graph, self._coverage)
        if kernels is None:
            self._segments = self._leave(Decisions.load(self.threads))
        self._whole: Any = None
        self._runners: list[tuple[Segment, Region | StockSegment]] = []
        if any(segment.is_region for segment in self._segments):
            for segment in self._segments:
                made = Region(self._model, segment, self._team, memory) if segment.is_region else self._stock(segment)
                self._runners.append((segment, made))
            self._plan_known_shapes()
        else:
            self._whole = self._open_whole()

    def _leave(self, decisions: Decisions) -> list[Segment]:
        """Segments without the regions that were measured slower than onnxruntime on this machine."""
        slower = [s for s in self._segments if s.is_region and decisions.is_slower(region_digest(s))]
        if not slower:
            return self._segments
        banned = {operation for segment in slower for operation in segment.operations}
        for operation in banned:
            for node in operation.nodes:
                self._coverage.refusals.setdefault(node, "measured slower than onnxruntime here")
        return partition(self._model.graph, self._coverage, banned)

    def _stock(self, segment: Segment) -> StockSegment:
        return StockSegment(self._model, segment, self.threads)

    def _open_whole(self) -> Any:
        source = self._source
        if isinstance(source, (str, os.PathLike)):
            source = os.fspath(source)
        elif not isinstance(source, bytes):
            from ..onnx_io import to_proto

            source = to_proto(self._model).SerializeToString()
        try:
            return stock_session(source, self.threads, self._model.folder)
        except Exception as error:  # onnxruntime raises its own classes for every kind of unusable model
            raise ModelError(f"onnxruntime cannot load the model: {str(error).splitlines()[0]}") from error

    def _plan_known_shapes(self) -> None:
        """Plans whose input shapes the model fixes are made now, so that the first run is like the others."""
        for segment, runner in self._runners:
            if not isinstance(runner, Region):
                continue
            types = [value.type for value in segment.inputs]
            if all(isinstance(t, TensorType) and t.is_static for t in types):
                runner.plan(tuple(t.shape for t in types))  # type: ignore[misc, union-attr]

    # -- the face of onnxruntime

    def get_inputs(self) -> list[NodeArg]:
        """The model's inputs that a caller must feed."""
        return [_argument(v.name, v) for v in self._model.graph.inputs if v.default is None]

    def get_outputs(self) -> list[NodeArg]:
        """The model's outputs."""
        graph = self._model.graph
        return [_argument(port.name, value) for port, value in zip(graph.ports, graph.outputs)]

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any], run_options: Any = None) -> list[Any]:
        """The named outputs (all by default) for arrays by input name. Raises InputError where the feeds do not fit."""
        graph = self._model.graph
        places = self._places(output_names)
        values = self._feed(feeds)
        if os.getpid() != self._pid:
            self._after_fork()
        if self._whole is not None:
            return self._run_whole(places, values)
        self._execute(values)
        return [self._result(graph.outputs[place], values) for place in places]

    def _execute(self, values: dict[Value, Any], watch: Callable[[Region, list[Any]], None] | None = None) -> None:
        for segment, runner in self._runners:
            arrays = [values[value] for value in segment.inputs]
            if watch is not None and isinstance(runner, Region):
                watch(runner, arrays)
            try:
                found = runner.run(arrays)
            except RuntimeError as error:  # onnxruntime's own, where a segment does not take its inputs
                raise InputError(str(error).splitlines()[0]) from error
            values.update(zip(segment.outputs, found))

    def run_watched(self, feeds: Mapping[str, Any], watch: Callable[[Region, list[Any]], None]) -> None:
        """Run once and show `watch` each region with the arrays it is about to read."""
        self._execute(self._feed(feeds), watch)

    def _run_whole(self, places: list[int], values: dict[Value, Any]) -> list[Any]:
        names = [self._model.graph.ports[place].name for place in places]
        try:
            found: list[Any] = self._whole.run(names, {value.name: array for value, array in values.items()})
        except Exception as error:  # onnxruntime raises its own classes for feeds that do not fit
            raise InputError(str(error).splitlines()[0]) from error
        return found

    def _result(self, value: Value, values: dict[Value, Any]) -> Any:
        if value in values:
            return values[value]
        array = constant_array(value)
        assert array is not None, "a result that nothing computes"
        return np.array(array)

    def _places(self, names: Sequence[str] | None) -> list[int]:
        known = [port.name for port in self._model.graph.ports]
        if names is None:
            return list(range(len(known)))
        for name in names:
            if name not in known:
                raise InputError(f"no output {name!r}; the model has {', '.join(known)}")
        return [known.index(name) for name in names]

    def _feed(self, feeds: Mapping[str, Any]) -> dict[Value, Any]:
        inputs = {value.name: value for value in self._model.graph.inputs}
        for name in feeds:
            if name not in inputs:
                raise InputError(f"no input {name!r}; the model has {', '.join(inputs)}")
        values: dict[Value, Any] = {}
        for name, value in inputs.items():
            if name in feeds:
                values[value] = _checked(name, value, feeds[name])
            elif isinstance(value.default, Constant):
                values[value] = value.default.array()
            else:
                raise InputError(f"input {name!r} is missing")
        return values

    def _after_fork(self) -> None:
        self._pid = os.getpid()
        if self._whole is not None:
            abandon(self._whole)
            self._whole = self._open_whole()
        for _, runner in self._runners:
            runner.after_fork()

    # -- what runs where

    def describe(self) -> Description:
        """The segments in the order they run, with the reasons why nodes are left to onnxruntime."""
        parts: list[DescribedPart] = []
        runners: list[tuple[Segment, Region | StockSegment | None]] = [*self._runners]
        for segment, runner in runners or [(segment, None) for segment in self._segments]:
            refusals = self._coverage.refusals
            reasons = {refusals[u] for u in segment.units if isinstance(u, Node) and u in refusals}
            if isinstance(runner, Region):
                reasons.update(runner.refusals.values())
            operators: dict[str, int] = {}
            for unit in segment.units:
                name = type(unit).__name__ if isinstance(unit, Operation) else unit.op
                operators[name] = operators.get(name, 0) + 1
            where = "kernels" if segment.is_region else "onnxruntime"
            parts.append(DescribedPart(where, operators, "; ".join(sorted(reasons))))
        return Description(tuple(parts))

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions that run on kernels."""
        return tuple(runner for _, runner in self._runners if isinstance(runner, Region))

    @property
    def covered(self) -> int:
        """Products (Conv, Gemm, MatMul) that run on kernels."""
        return sum(isinstance(o, PRODUCTS) for region in self.regions for o in region.segment.operations)


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _lifted(model: Any) -> Model:
    if isinstance(model, Model):
        return model
    from ..onnx_io import load

    return load(model)


def _argument(name: str, value: Value) -> NodeArg:
    declared = value.type
    if not isinstance(declared, TensorType):
        return NodeArg(name, str(declared), [])
    kind = ORT_NAMES.get(declared.dtype, declared.dtype.name.lower())
    return NodeArg(name, f"tensor({kind})", [] if declared.shape is None else list(declared.shape))


def _checked(name: str, value: Value, given: Any) -> Any:
    """The feed as an array of the input's type and a shape that fits."""
    declared = value.type
    if not isinstance(declared, TensorType):
        return given
    array = np.asarray(given)
    wanted = declared.dtype.numpy
    if declared.dtype is not DType.STRING and array.dtype != wanted:
        raise InputError(f"input {name!r} must be {wanted}, got {array.dtype}")
    if declared.shape is None:
        return array
    fits = len(declared.shape) == array.ndim
    fits = fits and all(not isinstance(d, int) or d == size for d, size in zip(declared.shape, array.shape))
    if not fits:
        shape = ", ".join("?" if d is None else str(d) for d in declared.shape)
        raise InputError(f"input {name!r} must have shape [{shape}], got {list(array.shape)}")
    return array

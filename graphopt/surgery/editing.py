"""`edit`: apply steps in order and validate them; a failed step leaves no file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import onnx_io
from ..arguments import check_arguments
from ..equivalence import Comparison, FeedData, Feeds, read_feeds
from ..errors import ModelError, OutputError
from ..ir import Model, verify
from ..machine.files import check_target
from .inputs import Bytes, TakeBytes
from .names import Rename, Strip
from .opset import SetOpset
from .outputs import Finish, Suppression
from .parts import DropOutputs, Extract
from .sizes import SetSizes
from .step import Judge, Step

if TYPE_CHECKING:
    import onnx

    from ..onnx_io.source import ModelSource


class NotValidated(ModelError):
    """An edit whose result differs from its specification, or could not be compared; with the comparison."""

    def __init__(self, text: str, comparison: Comparison) -> None:
        super().__init__(text)
        self.comparison = comparison


@dataclass(frozen=True, slots=True)
class Edited:
    """An edited model: the steps taken, and the comparisons that validate it (none with `validate=False`)."""

    ir: Model
    steps: tuple[str, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def model(self) -> onnx.ModelProto:
        """The model as ONNX; external data stay external."""
        return onnx_io.to_proto(self.ir)

    @property
    def status(self) -> str:
        """ "equal", "unverified" (only with `allow_unverified`), or "not checked"."""
        found = [c.status for c in self.comparisons if c.status != "equal"]
        return found[0] if found else "equal" if self.comparisons else "not checked"

    def save(self, path: str | os.PathLike[str], *, external: bool | None = None) -> None:
        """Write the model. external: True moves weights to a file beside it, False into it. OutputError."""
        check_arguments(Edited.save, locals())
        onnx_io.save(self.ir, Path(path), external=external)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the steps, the types of inputs and outputs, the comparisons."""
        graph = self.ir.graph
        return {
            "status": self.status, "steps": list(self.steps),
            "inputs": {v.name: str(v.type) for v in graph.inputs if v.default is None},
            "outputs": {p.name: str(p.type or v.type) for p, v in zip(graph.ports, graph.outputs)},
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
        }  # fmt: skip

    def __str__(self) -> str:
        graph = self.ir.graph
        ends = [f"  in   {v.name}: {v.type}" for v in graph.inputs if v.default is None]
        ends += [f"  out  {p.name}: {p.type or v.type}" for p, v in zip(graph.ports, graph.outputs)]
        samples = sum(c.samples for c in self.comparisons)
        return "\n".join([*self.steps, *ends, f"{self.status}" + f", {samples} samples" * bool(samples)])


def edit(
    model: ModelSource,
    output: str | os.PathLike[str] | None = None,
    *,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    drop_outputs: Sequence[str] = (),
    dims: Mapping[str, int | str] | None = None,
    uint8: Mapping[str, Bytes] | None = None,
    output_as: Mapping[str, str] | None = None,
    suppress: Suppression | None = None,
    opset: int | None = None,
    strip: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    external: bool | None = None,
    force: bool = False,
    feeds: FeedData | None = None,
    validate: bool = True,
    allow_unverified: bool = False,
    samples: int = 4,
    seed: int = 0,
) -> Edited:
    """Change the interface, the extent or the format of a model, validated against the given model.

    All names are those of the given model. Whatever the order of the keywords, the steps run in this order:

    inputs, outputs: keep only the part that computes `outputs` from `inputs`, inner values or the model's own.
    drop_outputs: outputs to remove, names or patterns such as `present.*`.
    dims: sizes, {"N": 8} by name, {"batch": 8} of all first axes, {"x:2": 256} of an axis; a number or a name.
    uint8: float inputs to be fed as bytes, {"x": Bytes(scale=1 / 255, mean=…, std=…, layout="NHWC")}; the arithmetic
    folds into the first convolution as far as that is exact.
    output_as: {"scores": "argmax"}, "softmax" or "sigmoid", with an axis as "argmax:1". suppress: NonMaxSuppression
        behind outputs of boxes and scores.
    opset: the operator set to convert to, up or down.
    strip: any of "metadata", "docs", "names". rename: {old: new} of inputs and outputs.
    external: True moves weights to a file beside the output, False into it, None leaves them where they are.
    output: a path to write; the model's own only with `force`.
    feeds: inputs of the given model to compare with, in the forms of `graphopt.compare`; made up by default. validate:
        False does not compare. allow_unverified: accept a result that onnxruntime cannot run. samples, seed: of made-up
        inputs.

        `graphopt.compare` compares the result with its specification: the given model with plain nodes around it for
        each step. NotValidated (a ModelError) where the two differ or the comparison is unverified; OptionError for a
        name the model lacks, or a step that does not fit. Nothing is written then.
    """
    check_arguments(edit, locals())
    if output is not None:
        _check_output(model, output, force)
    steps: list[Step] = []
    if inputs or outputs:
        steps.append(Extract(tuple(outputs), tuple(inputs)))
    if drop_outputs:
        steps.append(DropOutputs(tuple(drop_outputs)))
    if dims:
        steps.append(SetSizes(dict(dims)))
    steps += [TakeBytes(name, format) for name, format in (uint8 or {}).items()]
    steps += [Finish.of(name, word) for name, word in (output_as or {}).items()]
    if suppress is not None:
        steps.append(suppress)
    if opset is not None:
        steps.append(SetOpset(opset))
    if strip:
        steps.append(Strip(tuple(strip)))
    if rename:
        steps.append(Rename(dict(rename)))
    source = onnx_io.load(model)
    given = None if feeds is None else read_feeds(feeds, source)
    run = _Run(source, given, Judge(samples, seed) if validate else None, allow_unverified)
    for step in steps:
        run.take(step)
    edited = Edited(run.finish(), tuple(map(str, steps)), tuple(run.comparisons))
    if output is not None:
        edited.save(output, external=external)
    return edited


class _Run:
    """Steps in progress: the current model, its specification, and its feeds."""

    def __init__(self, model: Model, feeds: list[Feeds] | None, judge: Judge | None, lenient: bool) -> None:
        self.source = self.current = self.expected = model
        self.feeds, self.judge, self.lenient = feeds, judge, lenient
        self.pending: list[Step] = []
        self.comparisons: list[Comparison] = []

    def take(self, step: Step) -> None:
        """Apply one step."""
        after = step.apply(self.current)
        verify(after)
        if step.alone:
            self.settle()
        judge, before = self.judge, self.current
        if judge is not None:
            if step.alone:
                self._keep(step.judge(before, after, self.feeds, judge), str(step))
                self.expected = after
            else:
                self.expected = step.expected(self.expected)
                self.pending.append(step)
            self.feeds = step.translate(before, self.feeds, judge)
        self.current = after

    def finish(self) -> Model:
        """The edited model, after comparison. ModelError where it is invalid and the given model was valid."""
        self.settle()
        try:
            onnx_io.check(self.current)
        except ModelError:
            if _is_valid(self.source):
                raise
        return self.current

    def settle(self) -> None:
        """Compare the model after the pending steps."""
        if self.judge is None or not self.pending:
            return
        what = "; ".join(map(str, self.pending))
        inner = all(step.keeps_names for step in self.pending)
        self._keep(self.judge.compare(self.expected, self.current, self.feeds, inner), what)
        self.pending, self.expected = [], self.current

    def _keep(self, comparison: Comparison, what: str) -> None:
        if comparison.status == "different" or not (comparison.is_equal or self.lenient):
            raise NotValidated(f"{what}: the result is {comparison.status}, {comparison.reason}", comparison)
        self.comparisons.append(comparison)


def _is_valid(model: Model) -> bool:
    try:
        onnx_io.check(model)
    except ModelError:
        return False
    return True


def _check_output(model: ModelSource, output: str | os.PathLike[str], force: bool) -> None:
    check_target(output)
    if force or not isinstance(model, (str, os.PathLike)) or not (os.path.exists(output) and os.path.exists(model)):
        return
    if os.path.samefile(model, output):
        raise OutputError(f"{os.fspath(output)!r} is the model itself; it is only written over on request (force)")

"""The result of `optimize`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import onnx_io
from .arguments import check_arguments
from .ir import Model
from .recipe import Recipe
from .report import Report

if TYPE_CHECKING:
    import onnx

    from .onnx_io.lend import Emission
    from .runtime import Session


@dataclass(frozen=True, slots=True)
class Result:
    """An optimized model, as IR and as ONNX (external data stays external), with its report.

    emission: `model`, perhaps without its large weights. is_original: `model` is the original's own proto, since the
    emission of the unchanged IR failed the check. record: makes the recipe.
    """

    ir: Model
    report: Report
    emission: Emission
    is_original: bool = False
    record: Callable[[], Recipe] = field(default=Recipe, repr=False, compare=False)

    @property
    def model(self) -> onnx.ModelProto:
        """The model as ONNX; assembled at the first access, since large weights lie outside the proto."""
        return self.emission.whole()

    @property
    def recipe(self) -> Recipe:
        """The recipe that reproduces this result; reads model and calibration data once more, for their digests."""
        return self.record()

    def save(self, path: str | Path, *, external: bool | None = None) -> None:
        """Write the model; its data beside it when `external` asks for it or it exceeds 2 GB. OutputError."""
        check_arguments(Result.save, locals())
        is_whole = external is not True and not onnx_io.lies_outside(self.ir)  # spares another emission
        onnx_io.save(self.emission if is_whole else self.ir, path, external=external)

    def _repr_html_(self) -> str:
        return self.report._repr_html_()

    def session(self, threads: int | None = None) -> Session:
        """A `graphopt.Session` on the model: int8 kernels where they are faster, onnxruntime elsewhere."""
        from .runtime import session_of

        return session_of(self.ir, threads)

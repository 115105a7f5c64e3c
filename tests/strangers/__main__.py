"""Export the corpus: `python -m tests.strangers FOLDER [--only NAME …] [--size tiny|wide|both]`.

Needs torch, transformers and skl2onnx (the extra `strangers`); each file is written once. Names are
ARCHITECTURE-SIZE-EXPORTER.onnx with the example inputs beside it as .npz. A failed export is reported in one line and
is no error: exporters have their own limits.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from tests.strangers.architectures import ARCHITECTURES, Architecture
from tests.strangers.tables import TABLES

ROOT = Path(__file__).resolve().parents[2]
EXPORTERS = {"script": (False, 17), "dynamo": (True, 18)}
"""Whether torch.export takes the model apart, and the operator set that is asked for."""


def export(architecture: Architecture, path: Path, dynamo: bool, opset: int) -> None:
    """Write one file and its example inputs."""
    names, arguments = list(architecture.inputs), tuple(architecture.inputs.values())
    options: dict[str, object] = {"dynamic_axes": architecture.axes}
    if dynamo:
        dims = {name: torch.export.Dim.DYNAMIC for axes in architecture.axes.values() for name in axes.values()}
        shapes = [{axis: dims[d] for axis, d in architecture.axes.get(name, {}).items()} for name in names]
        options = {"dynamic_shapes": {"inputs": tuple(shapes)} if _is_variadic(architecture) else tuple(shapes)}
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        torch.onnx.export(
            architecture.module, arguments, str(path), input_names=names, dynamo=dynamo, opset_version=opset,
            external_data=False, **options,  # type: ignore[arg-type]
        )  # fmt: skip
    np.savez(path.with_suffix(".npz"), **{name: value.numpy() for name, value in architecture.inputs.items()})


def _is_variadic(architecture: Architecture) -> bool:
    return type(architecture.module).__name__ == "Outputs"


def main() -> None:
    """Export what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--size", choices=("tiny", "wide", "both"), default="both")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    sys.path[:] = [
        place for place in sys.path if Path(place or ".").resolve() != ROOT
    ]  # transformers finds kernels/ there
    torch.backends.mha.set_fastpath_enabled(False)  # the older exporter does not know that operator
    logging.disable(logging.ERROR)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    sizes = ("tiny", "wide") if arguments.size == "both" else (arguments.size,)
    for name, build in ARCHITECTURES.items():
        for size in sizes if not arguments.only or name in arguments.only else ():
            for exporter, (dynamo, opset) in EXPORTERS.items():
                path = arguments.folder / f"{name}-{size}-{exporter}.onnx"
                if path.exists() and path.with_suffix(".npz").exists():
                    continue
                torch.manual_seed(0)
                try:
                    export(build(size == "wide"), path, dynamo, opset)
                    print(path.name, flush=True)
                except Exception as error:  # exporters raise anything
                    path.unlink(missing_ok=True)
                    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                    print(f"{path.name}: not exported: {type(error).__name__}: {reason[:120]}", flush=True)
    for name, write in TABLES.items():
        path = arguments.folder / f"{name}.onnx"
        if not path.exists() and (not arguments.only or name in arguments.only):
            write(path)
            print(path.name, flush=True)


if __name__ == "__main__":
    main()

"""`graphopt edit`."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from ..errors import OptionError
from .common import JSON, Model, err, out, split
from .console import write_json

if TYPE_CHECKING:
    from ..surgery import Bytes

_Repeated = Optional[list[str]]  # noqa: UP045 - typer reads it at run time


def edit(
    model: Model,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="where to write it; MODEL with .edited.onnx by default"),
    ] = None,
    from_: Annotated[
        _Repeated, typer.Option("--from", help="keep the part that starts at this value; repeatable")
    ] = None,
    to: Annotated[_Repeated, typer.Option(help="keep the part that computes this value; repeatable")] = None,
    drop_output: Annotated[
        _Repeated, typer.Option(help="an output that goes, or a pattern such as 'present.*'; repeatable")
    ] = None,
    dims: Annotated[
        _Repeated,
        typer.Option(
            help="a size by name (N=8, N=batch), of all first axes (batch=8) or an axis (x:2=256); repeatable"
        ),
    ] = None,
    uint8: Annotated[
        _Repeated, typer.Option(help="a float input x to be fed as bytes: x = (bytes · scale - mean) / std; repeatable")
    ] = None,
    scale: Annotated[str, typer.Option(help="of --uint8, such as 1/255")] = "1",
    mean: Annotated[str, typer.Option(help="of --uint8, one number or one a channel, comma-separated")] = "0",
    std: Annotated[str, typer.Option(help="of --uint8, one number or one a channel, comma-separated")] = "1",
    layout: Annotated[str, typer.Option(help="of --uint8: NHWC where the bytes have their channels last")] = "",
    output_as: Annotated[
        _Repeated, typer.Option(help="an output as NAME=argmax, softmax or sigmoid, with an axis argmax:1; repeatable")
    ] = None,
    nms: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="the outputs BOXES,SCORES that NonMaxSuppression is to keep the best of"),
    ] = None,
    iou: Annotated[float, typer.Option(help="of --nms: boxes that overlap more than this exclude each other")] = 0.5,
    min_score: Annotated[float, typer.Option(help="of --nms: boxes of a lower score go")] = 0.05,
    most: Annotated[int, typer.Option(help="of --nms: boxes that are kept of each class and image")] = 100,
    centers: Annotated[bool, typer.Option(help="of --nms: boxes are centre and size, not corners")] = False,
    opset: Annotated[Optional[int], typer.Option(help="convert to this operator set, up or down")] = None,  # noqa: UP045
    strip: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="remove metadata, docs, names (of nodes and inner values), or all; comma-separated"),
    ] = None,
    rename: Annotated[_Repeated, typer.Option(help="an input or output, as old=new; repeatable")] = None,
    external: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option("--external/--inline", help="weights in OUT.data, or in OUT; where they are if unsaid"),
    ] = None,
    inputs: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="an .npz file of MODEL's inputs by name, to compare with; made up by default"),
    ] = None,
    allow_unverified: Annotated[bool, typer.Option(help="also write what onnxruntime cannot run")] = False,
    check: Annotated[bool, typer.Option("--check/--no-check", help="compare the result with MODEL")] = True,
    force: Annotated[bool, typer.Option(help="write over MODEL itself")] = False,
    samples: Annotated[int, typer.Option(help="how many inputs to make up")] = 4,
    as_json: JSON = False,
    seed: Annotated[int, typer.Option(help="seed of synthesised inputs")] = 0,
) -> None:
    """Rename, cut, or reformat MODEL and validate that: exit 0 written, 1 different, 3 unverified, nothing written."""
    from ..surgery import NotValidated, Suppression
    from ..surgery import edit as run

    target = output or model.with_suffix(".edited.onnx")
    try:
        edited = run(
            model, target, inputs=from_ or (), outputs=to or (), drop_outputs=drop_output or (),
            dims={k: int(v) if v.isdecimal() else v for k, v in pairs_of(dims or (), "--dims", "batch=8").items()},
            uint8={name: bytes_of(scale, mean, std, layout) for name in uint8 or ()},
            output_as=pairs_of(output_as or (), "--output-as", "scores=argmax"),
            suppress=None if nms is None else Suppression(*_two(nms), iou, min_score, most, centers),
            opset=opset, strip=_parts(strip), rename=pairs_of(rename or (), "--rename", "old=new"),
            external=external, force=force, feeds=inputs, validate=check, allow_unverified=allow_unverified,
            samples=samples, seed=seed,
        )  # fmt: skip
    except NotValidated as error:
        err.print(f"graphopt: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1 if error.comparison.status == "different" else 3) from error
    if as_json:
        write_json({**edited.to_dict(), "output": str(target)})
        return
    out.print(str(edited), markup=False, highlight=False, soft_wrap=True)
    out.print(f"wrote {target}", markup=False, highlight=False, soft_wrap=True)


def pairs_of(texts: Sequence[str], option: str, form: str) -> dict[str, str]:
    """Texts such as `old=new` as a dict, split at the last `=`. OptionError."""
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.rpartition("=")
        if not equals or not key or not value:
            raise OptionError(f"{option} {text!r}: write it as {form}")
        if key in pairs:
            raise OptionError(f"{option}: {key!r} is given twice")
        pairs[key] = value
    return pairs


def bytes_of(scale: str, mean: str, std: str, layout: str) -> Bytes:
    """The byte format of options. OptionError."""
    from ..surgery import Bytes

    means, deviations = _numbers("--mean", mean), _numbers("--std", std)
    scales = _numbers("--scale", scale)
    if len(scales) != 1:
        raise OptionError(f"--scale {scale!r}: write one number, such as 1/255")
    return Bytes(scales[0], means, deviations, layout.upper())


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(Fraction(part)) for part in "".join(text.split()).split(","))
    except (ValueError, ZeroDivisionError):
        raise OptionError(f"{option} {text!r}: write numbers, such as 0.485,0.456,0.406 or 1/255") from None


def _two(text: str) -> tuple[str, str]:
    names = split(text) or []
    if len(names) != 2:
        raise OptionError(f"--nms {text!r}: write the names of two outputs, as boxes,scores")
    return names[0], names[1]


def _parts(text: str | None) -> Sequence[str]:
    from ..surgery.names import PARTS

    return PARTS if text == "all" else split(text) or ()

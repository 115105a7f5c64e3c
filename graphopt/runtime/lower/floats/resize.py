"""Lowering of Resize of images and sequences: nearest for codes and float32, linear for float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

from ....errors import Declined
from ....ir import Node, Value
from ....kernels.layout.interpolate import Coordinates, Nearest
from ....kernels.tensors.quantization import Quantization
from ....ops import attr, version_for
from ..computed_shapes import shape_sources
from ..moves import stays_on_kernels
from ..operands import constant_array, declared_shape, is_float32, requantization_table
from ..operations import Resize
from ..traits import Operation
from .gelu import is_made
from .operations import FloatResize

_RANK = 4  # batch, channels, height, width
_COORDINATES = 11  # the operator set from which Resize has coordinate modes
_UNUSUAL = ("antialias", "axes", "exclude_outside")

Sized = tuple[tuple[Value, ...], tuple[float, ...], tuple[int, ...] | Value]
"""Inputs whose shapes give computed sizes; scales of the axes behind the channels, or (); sizes of all axes, or ()."""


def resize(
    node: Node, source: Value, output: Value, nodes: tuple[Node, ...], x: Quantization, y: Quantization,
    at_hand: Callable[[Value], bool],
) -> Resize:  # fmt: skip
    """Nearest Resize of codes, which repeats or omits elements. Declined for any other Resize."""
    if str(attr(node, "mode", "nearest")) != "nearest":
        raise Declined("Resize that interpolates")
    inputs, scales, sizes = _sized(node, source, at_hand)
    return Resize(
        inputs=(source, *inputs), output=output, nodes=nodes, coordinates=_coordinates(node), nearest=_nearest(node),
        scales=scales, sizes=sizes, table=requantization_table(x, y),
    )  # fmt: skip


def float_resize(node: Node, known: Mapping[Value, Operation]) -> Resize | FloatResize | None:
    """Nearest or linear Resize of float32; None where kernels do not compute its input."""
    x, mode = node.inputs[0], str(attr(node, "mode", "nearest"))
    if not is_made(x, known) or not is_float32(node.output):
        return None
    if mode not in ("nearest", "linear"):
        raise Declined(f"Resize, mode {mode}")
    how = _coordinates(node)
    inputs, scales, sizes = _sized(node, x, lambda value: stays_on_kernels(value, known))
    if mode == "nearest":
        return Resize(
            inputs=(x, *inputs), output=node.output, nodes=(node,), coordinates=how, nearest=_nearest(node),
            scales=scales, sizes=sizes, floats=True,
        )  # fmt: skip
    if len(declared_shape(x)) != _RANK:
        raise Declined("linear Resize of other than an image")
    return FloatResize(
        inputs=(x, *inputs), output=node.output, nodes=(node,), coordinates=how, scales=scales, sizes=sizes
    )


def _coordinates(node: Node) -> str:
    """The coordinate transformation mode. Declined where kernels lack it."""
    how = str(attr(node, "coordinate_transformation_mode", "half_pixel"))
    keeps_ratio = node.attrs.get("keep_aspect_ratio_policy") not in (None, "stretch")
    if how not in get_args(Coordinates) or keeps_ratio or any(attr(node, name, None) for name in _UNUSUAL):
        raise Declined(f"Resize with {how} coordinates, or with {', '.join(_UNUSUAL)} or a ratio that is kept")
    if version_for(node) < _COORDINATES:
        raise Declined("Resize of an old operator set")
    return how


def _nearest(node: Node) -> str:
    return str(attr(node, "nearest_mode", get_args(Nearest)[0]))


def _sized(node: Node, x: Value, at_hand: Callable[[Value], bool]) -> Sized:
    """The sizes of the result. Declined where they depend on anything but shapes and constants."""
    scales, sizes = (constant_array(node.input(slot)) for slot in (2, 3))
    target = declared_shape(node.output)
    rank = len(declared_shape(x))
    if scales is not None and scales.size:
        if scales.size != rank or rank < _RANK - 1 or scales.reshape(-1)[:2].tolist() != [1, 1]:
            raise Declined("Resize of batch or channels")
        return (), tuple(float(scale) for scale in scales.reshape(-1)[2:]), ()
    if sizes is not None:
        return (), (), tuple(int(size) for size in sizes.reshape(-1))
    if rank == len(target) and all(isinstance(size, int) for size in target):
        return (), (), tuple(int(str(size)) for size in target)
    computed = node.input(3)
    if computed is None:
        raise Declined("Resize by factors that are not constant")
    return shape_sources(computed, at_hand), (), computed

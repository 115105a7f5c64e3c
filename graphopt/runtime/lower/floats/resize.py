"""Lowering of linear Resize of float32 images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from ....errors import Declined
from ....ir import Node, Value
from ....kernels.layout.interpolate import Coordinates
from ....ops import attr, version_for
from ..operands import constant_array, declared_shape, is_float32
from ..traits import Operation
from .gelu import is_made
from .operations import FloatResize

_RANK = 4  # batch, channels, height, width
_COORDINATES = 11  # the operator set from which Resize has them
_UNUSUAL = ("antialias", "axes", "exclude_outside")


def float_resize(node: Node, known: Mapping[Value, Operation]) -> FloatResize | None:
    """Resize, mode linear, over height and width; None where kernels do not compute its input.

    Sizes that the model computes are those of the declared result.
    """
    x = node.inputs[0]
    if not is_made(x, known) or not is_float32(node.output):
        return None
    if str(attr(node, "mode", "nearest")) != "linear":
        raise Declined("Resize of floats that does not interpolate linearly")
    how = str(attr(node, "coordinate_transformation_mode", "half_pixel"))
    keeps_ratio = node.attrs.get("keep_aspect_ratio_policy") not in (None, "stretch")
    if how not in get_args(Coordinates) or keeps_ratio or any(attr(node, name, None) for name in _UNUSUAL):
        raise Declined(f"Resize with {how} coordinates, or with {', '.join(_UNUSUAL)} or a ratio that is kept")
    if version_for(node) < _COORDINATES:
        raise Declined("Resize of an old operator set")
    source, target = declared_shape(x), declared_shape(node.output)
    if len(source) != _RANK or len(target) != _RANK:
        raise Declined("Resize of other than an image")
    scales = constant_array(node.input(2))
    if scales is not None and scales.size == _RANK:
        if scales[0] != 1 or scales[1] != 1:
            raise Declined("Resize of batch or channels")
        return _resize(node, x, how, scales=(float(scales[2]), float(scales[3])))
    height, width = target[2:]
    if not isinstance(height, int) or not isinstance(width, int) or source[:2] != target[:2] or None in source[:2]:
        raise Declined("Resize to sizes that are not known")
    return _resize(node, x, how, sizes=(height, width))


def _resize(
    node: Node, x: Value, how: str, *, scales: tuple[float, ...] = (), sizes: tuple[int, ...] = ()
) -> FloatResize:
    return FloatResize(inputs=(x,), output=node.output, nodes=(node,), coordinates=how, scales=scales, sizes=sizes)

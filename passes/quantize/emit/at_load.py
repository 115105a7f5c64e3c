"""Which stored weights onnxruntime should convert to floats once, as it loads a model.

It runs DequantizeLinear in each run, so that a convolution has no weights to pack. MatMul and Gemm multiply by the
codes themselves, which is faster than by floats only where the weights are many. (Cast(codes) − zero) · scale is
folded at loading: a small file at the speed of floats, and of their size in memory.
"""

from __future__ import annotations

from math import prod

from ....compress.layers.linear import PRODUCTS
from ..candidates.assignment import Assignment
from ..candidates.units import Unit


def converts_at_load(unit: Unit, assignment: Assignment) -> bool:
    """Whether a layer with stored weights is predicted to be faster on floats, at the sizes of the timing sample.

    Only for target "onnxruntime": other runtimes recognize stored weights by DequantizeLinear. Never in a large model,
    nor where a table shares the codes.
    """
    if assignment.target != "onnxruntime" or unit.is_table or unit.node in assignment.shared.heads.values():
        return False
    source = assignment.shapes.get(unit.inputs[0])
    if source is None:
        return False
    if unit.node.op not in PRODUCTS:
        return True
    from ....runtime.place.cost import floats_multiply_faster

    linear = unit.layer
    return floats_multiply_faster(prod(source) // linear.depth, linear.depth, linear.channels)

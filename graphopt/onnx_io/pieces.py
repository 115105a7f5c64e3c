"""Sessions of models whose packed weights would not fit in memory: cut into pieces, each packed only while it runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import onnx

from ..ir import Array
from ..machine.sessions import EXTERNAL_FOLDER, FOLDING, PACKED, open_session, spare_memory
from .lend import lend_to
from .parts.order import in_order, reads
from .weights import half_bytes, nbytes

if TYPE_CHECKING:
    import onnxruntime

_NUMPY = frozenset(f"tensor({kind})" for kind in (
    "bool", "float16", "float", "double", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
))  # fmt: skip
"""The types, in onnxruntime's words, of values that may pass between pieces."""
_UNPACKS = frozenset(("Constant", "Identity", "Cast", "Reshape", "Transpose", "DequantizeLinear"))
"""Operators between a stored weight and its reader, which stand in each piece that reads their result."""


def open_large(
    proto: onnx.ModelProto, lent: Mapping[str, Array], folder: str,
    settings: Callable[[], onnxruntime.SessionOptions], weights: int,
) -> onnxruntime.InferenceSession | PiecewiseSession:  # fmt: skip
    """A session of a large model, as `on_disk` gives it, that copies no large weights; ModelError if it cannot be
    opened. settings: makes new ones. weights: bytes of all weights.

    In pieces where weights exceed `PACKED` bytes and products need them packed: onnxruntime's MatMulNBits else
    dequantizes a whole weight in each run, which takes 50 times as long for a few rows.
    """
    opened = partial(_opened, lent=lent, folder=folder, settings=settings, halves=half_bytes(proto))
    are_packed = any(node.op_type == "MatMulNBits" or is_blocked(node) for node in proto.graph.node)
    is_cut = weights > PACKED and are_packed and not settings().enable_profiling  # a profile is of one session
    pieces = cut(proto, PACKED) if is_cut else []
    if len(pieces) < 2:
        return opened(proto, weights)
    shown, results = onnx.ModelProto(), set(_names(proto.graph.output))
    shown.CopyFrom(proto)
    names = (name for piece in pieces for name in _names(piece.graph.output) if name not in results)
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    whole = opened(shown, weights)
    types = {value.name: value.type for value in (*whole.get_inputs(), *whole.get_outputs())}
    if not _NUMPY.issuperset(types.values()):
        return opened(proto, weights)
    for value in (value for piece in pieces for value in piece.graph.input):
        # Without sizes: of wrong ones onnxruntime only warns inside a graph, but refuses inputs of other sizes.
        kind = types[value.name].removeprefix("tensor(").removesuffix(")")
        value.type.tensor_type.elem_type = onnx.TensorProto.DataType.Value(kind.upper())
    return PiecewiseSession(whole, len(results), pieces, opened)


class PiecewiseSession:
    """A session of pieces, each opened when a run reaches it and closed behind it; to callers, an
    `onnxruntime.InferenceSession`."""

    def __init__(
        self, whole: onnxruntime.InferenceSession, results: int, pieces: Sequence[onnx.ModelProto],
        opened: Callable[[onnx.ModelProto, int], onnxruntime.InferenceSession],
    ) -> None:  # fmt: skip
        """whole: a session of the model, for its inputs and its first `results` outputs. opened: opens a piece with
        that many bytes of weights."""
        self._whole, self._results, self._opened = whole, results, opened
        self._pieces = [(piece, _names(piece.graph.input), _names(piece.graph.output)) for piece in pieces]

    def get_inputs(self) -> list[Any]:
        """The model's inputs."""
        return list(self._whole.get_inputs())

    def get_outputs(self) -> list[Any]:
        """The model's outputs."""
        return list(self._whole.get_outputs()[: self._results])

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Any], options: Any = None) -> list[Any]:
        """The results of these names, all by default; options: onnxruntime's RunOptions."""
        return self.run_each(names, [feeds], options)[0]

    def run_each(
        self, names: Sequence[str] | None, samples: Iterable[Mapping[str, Any]], options: Any = None
    ) -> list[list[Any]]:
        """`run` on each sample: all of them pass a piece before it is closed."""
        wanted = _names(self.get_outputs()) if names is None else list(names)
        held = [dict(feeds) for feeds in samples]
        for number, (piece, inputs, outputs) in enumerate(self._pieces):
            session = self._opened(piece, sum(map(nbytes, piece.graph.initializer)))
            kept = {name for _, later, _ in self._pieces[number + 1 :] for name in later}.union(wanted)
            for values in held:
                values.update(zip(outputs, session.run(outputs, {name: values[name] for name in inputs}, options)))
                for name in values.keys() - kept:
                    del values[name]
            del session  # before the next one packs its weights
        return [[values[name] for name in wanted] for values in held]


def _opened(
    proto: onnx.ModelProto, weights: int, *, lent: Mapping[str, Array], folder: str,
    settings: Callable[[], onnxruntime.SessionOptions], halves: int,
) -> onnxruntime.InferenceSession:  # fmt: skip
    """A session of a large model or of a piece of it."""
    made = settings()
    made.add_session_config_entry(EXTERNAL_FOLDER, folder)
    spare_memory(made, weights, halves)
    held = lend_to(made, proto, lent)
    session = open_session(proto.SerializeToString(), made, without=FOLDING)
    session.lent = held, lent  # they must live as long as the session does
    return session


def cut(proto: onnx.ModelProto, most: int) -> list[onnx.ModelProto]:
    """The model in pieces with at most `most` bytes of weights each, or one node that has more; their inputs have no
    types yet. Empty where inputs have defaults, or an output is no result of a node that reads more than weights.
    """
    graph, nodes = proto.graph, in_order(proto.graph.node, "the model")
    sizes = {tensor.name: nbytes(tensor) for tensor in graph.initializer}
    unpacks: dict[str, int] = {}
    parts: list[set[int]] = []
    held: set[str] = set()
    for number, node in enumerate(nodes):
        if node.op_type in _UNPACKS and all(name in sizes or name in unpacks for name in node.input):
            unpacks.update((name, number) for name in node.output)
            continue
        more = {number, *_sources(node, nodes, unpacks)}
        read = sizes.keys() & set[str]().union(*(reads(nodes[n]) for n in more))
        if not parts or (held and read - held and sum(sizes[name] for name in held | read) > most):
            parts.append(set())
            held = set()
        parts[-1] |= more
        held |= read
    made = {name for node in nodes for name in node.output if name} - unpacks.keys()
    results = _names(graph.output)
    if graph.sparse_initializer or not sizes.keys().isdisjoint(_names(graph.input)) or not made.issuperset(results):
        return []
    pieces = [_piece(proto, [nodes[n] for n in sorted(part)], sizes.keys()) for part in parts]
    read = {name for piece in pieces for name in _names(piece.graph.input)} | set(results)
    for piece in pieces:
        results = [name for node in piece.graph.node for name in node.output if name in read & made]
        piece.graph.output.extend(onnx.ValueInfoProto(name=name) for name in results)
    return [piece for piece in pieces if piece.graph.output]


def _sources(node: onnx.NodeProto, nodes: Sequence[onnx.NodeProto], unpacks: Mapping[str, int]) -> set[int]:
    """The numbers of the nodes that unpack weights for a node."""
    found = {unpacks[name] for name in reads(node) if name in unpacks}
    return found.union(*(_sources(nodes[n], nodes, unpacks) for n in found))


def _piece(proto: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], stored: Collection[str]) -> onnx.ModelProto:
    """Nodes of a model, in order, with the weights and the values that they read, but without outputs."""
    piece = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    read = dict.fromkeys(name for node in nodes for name in sorted(reads(node)))
    made = {name for node in nodes for name in node.output}
    piece.graph.name = proto.graph.name
    piece.graph.node.extend(nodes)
    piece.graph.input.extend(onnx.ValueInfoProto(name=n) for n in read if n not in made and n not in stored)
    piece.graph.initializer.extend(tensor for tensor in proto.graph.initializer if tensor.name in read)
    return piece


def is_blocked(node: onnx.NodeProto) -> bool:
    """Whether onnxruntime may make a DequantizeLinear and its reader one product."""
    return node.op_type == "DequantizeLinear" and any(a.name == "block_size" and a.i for a in node.attribute)


def _names(values: Iterable[Any]) -> list[str]:
    return [value.name for value in values]

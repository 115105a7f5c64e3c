"""Fidelity of candidates measured on workers: each is sent as its proto and the digests of its large weights."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from functools import lru_cache
from typing import Any

import numpy as np
import onnx

from ..ir import Constant, Model
from ..machine.sessions import open_session, session_options
from ..parallel import Content, content, digest_of, ordered
from .latency import taking_floats

LARGE = 1 << 14
"""Bytes from which a weight is sent separately, as most weights of two candidates are equal. Not tuned."""


def on_workers(
    executor: Executor, judge: Callable[[Any, Any], Any], models: Iterable[Model], samples: Any
) -> Iterator[Any]:
    """`judge(session, samples)` of each model, in order, with a session of one thread on a worker."""
    data = pickle.dumps(samples, pickle.HIGHEST_PROTOCOL)
    shared = {digest_of(data): data}
    packer = _Packer()

    def calls() -> Iterator[tuple[tuple[Any, ...], Content]]:
        for model in models:
            proto, weights, sent = packer(model)
            yield (judge, proto, weights, next(iter(shared))), {**shared, **sent}

    return ordered(executor, _judged, calls())


class _Packer:
    """Splits models into proto and weights; a weight shared by several models is digested once."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Constant, str, bytes]] = {}

    def __call__(self, model: Model) -> tuple[bytes, dict[str, str], dict[str, bytes]]:
        """The proto without large weights, their digests by name, and the weights by digest."""
        from ..onnx_io.emit import Emitter
        from ..onnx_io.parts.apart import LENDABLE, describe_lent
        from ..onnx_io.parts.tensors import describe_external, write_tensor

        weights: dict[str, str] = {}
        sent: dict[str, bytes] = {}

        def store(proto: onnx.TensorProto, constant: Constant, name: str) -> None:
            if constant.nbytes < LARGE or constant.dtype not in LENDABLE:
                write_tensor(proto, constant, name)
                return
            describe_external(proto, constant, name)
            describe_lent(proto, constant.nbytes)
            if id(constant) not in self.known:
                data = np.ascontiguousarray(constant.array()).tobytes()
                self.known[id(constant)] = (constant, digest_of(data), data)
            _, digest, data = self.known[id(constant)]
            weights[name], sent[digest] = digest, data

        proto = Emitter(model, store=store, store_inside=write_tensor).model()
        return proto.SerializeToString(), weights, sent


def _judged(judge: Callable[[Any, Any], Any], proto: bytes, weights: dict[str, str], samples: str) -> Any:
    """On a worker: assemble the model, open a session and judge it."""
    from ..onnx_io.parts.apart import forget_place

    model = onnx.ModelProto.FromString(proto)
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            forget_place(tensor)
            tensor.raw_data = content(weights[tensor.name])
    session = taking_floats(open_session(model.SerializeToString(), session_options(threads=1)))
    return judge(session, _samples(samples))


@lru_cache(maxsize=2)
def _samples(digest: str) -> Any:
    return pickle.loads(content(digest))

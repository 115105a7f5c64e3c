"""Steps and programs: prepared operators as one compiled call. The ABI is described in the docstring of `kernels`."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from graphopt.kernels.core.compiler import Function, Kernel, MicroKernel
from graphopt.kernels.core.linked_table import LinkedTable
from graphopt.kernels.core.memory import LINE, Array, Words, aligned_empty, float_bits
from graphopt.kernels.core.states import quickly_pickled
from graphopt.kernels.core.struct_layouts import Control, Record, Row, record_words

_WORDS = LINE // 8  # of 8 bytes in a cache line
_SPINS = 2000  # pauses before a waiting worker yields its time slice (effect: `python -m tests.bench.threads`)
_EXECUTE = Function(
    "graphopt.kernels.loops.core.execute:execute",
    {"program": "i64*", "steps": "i64", "worker": "i64", "workers": "i64", "control": "i64*"},
)


@quickly_pickled
@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory known by name when an operator is prepared, and by address when its program is bound."""

    name: str
    offset: int = 0  # bytes


SCRATCH = Buffer("scratch")  # one private block per worker: scratch + worker * scratch_bytes

Argument = int | float | Array | Buffer | MicroKernel | LinkedTable | Record


@quickly_pickled
@dataclass(frozen=True, slots=True)
class Step:
    """One kernel with its arguments: numbers, buffers to bind, constant arrays and functions (kept alive by the step).

    Records are passed whole; `arguments` then holds their fields, one entry for each word of the descriptor.
    `tiles` units of work can be shared between workers, claimed `grain` at a time. `scratch` is the private memory in
    bytes that each worker needs while it runs.
    """

    kernel: Kernel
    arguments: Mapping[str, Argument]
    tiles: int
    grain: int = 1
    scratch: int = 0
    macs: int = 0  # multiply-accumulates, for profiles

    def __post_init__(self) -> None:
        if tuple(self.arguments) != tuple(self.kernel.fields):
            raise ValueError(f"{self.kernel.name} takes {tuple(self.kernel.fields)}, got {tuple(self.arguments)}")
        words: dict[str, Argument] = {}
        for (name, kind), value in zip(self.kernel.fields.items(), self.arguments.values(), strict=True):
            if isinstance(kind, str):
                words[name] = value
            elif isinstance(value, kind):
                words.update(zip((word for word, _ in record_words(name, kind)), value, strict=True))
            else:
                raise ValueError(f"{self.kernel.name} takes a {kind.__name__} as {name}, got {value!r}")
        object.__setattr__(self, "arguments", words)

    @property
    def linked(self) -> Iterator[Argument]:
        """The arguments that are no numbers."""
        return (value for value in self.arguments.values() if type(value) is not int and type(value) is not float)

    @property
    def functions(self) -> Iterator[Kernel | MicroKernel]:
        """The compiled functions that the step calls."""
        yield self.kernel
        for value in self.linked:
            if isinstance(value, MicroKernel):
                yield value
            elif isinstance(value, LinkedTable):
                yield from (target for _, target, _ in value.links if isinstance(target, MicroKernel))

    def replace_arrays(self, replaced: Callable[[Array], Array]) -> None:
        """Read each constant, also in tables, from `replaced(array)`, an array of equal content."""
        words = {name: replaced(v) if isinstance(v, np.ndarray) else v for name, v in self.arguments.items()}
        object.__setattr__(self, "arguments", words)
        for value in self.linked:
            if isinstance(value, LinkedTable):
                value.relink(replaced)

    def bind(self, addresses: Mapping[str, int]) -> Words:
        """The descriptor: one int64 per argument. Raises KeyError for a buffer without an address."""
        words = [
            value if type(value) is int and kind[0] != "f" else _word(kind, value, addresses)
            for kind, value in zip(self.kernel.words.values(), self.arguments.values(), strict=True)
        ]
        return np.array(words or [0], np.int64)

    def run(self) -> None:
        """Compute all tiles at once, on this thread, for a step without buffers: a share of a `Program`'s cost."""
        words = self.bind({})
        _entry(self.kernel.address())(words.ctypes.data, 0, self.tiles, 0)


def _word(kind: str, value: Argument, addresses: Mapping[str, int]) -> int:
    if isinstance(value, Buffer):
        return addresses[value.name] + value.offset
    if isinstance(value, MicroKernel):
        return value.address()
    if isinstance(value, LinkedTable):
        value = value.words
    if isinstance(value, np.ndarray):
        if not value.flags.c_contiguous:
            raise ValueError("a constant array must be contiguous")
        return int(value.ctypes.data)
    if isinstance(value, tuple):
        raise TypeError("a record is taken apart when its step is made")
    if kind == "f32":
        return float_bits(value)
    if kind == "f64":
        return int(np.float64(value).view(np.int64))
    return int(value)


@dataclass(frozen=True, slots=True)
class Routine:
    """A prepared operator: steps in order, the temporaries between them (name → bytes) and its packed weights' size."""

    steps: tuple[Step, ...]
    temporaries: Mapping[str, int] = field(default_factory=dict)
    packed_bytes: int = 0

    @property
    def scratch(self) -> int:
        """Private bytes of a worker: the most that any step needs."""
        return max((step.scratch for step in self.steps), default=0)


@cache
def _entry(address: int) -> Callable[..., None]:
    """The C function of a step's kernel."""
    word = ctypes.c_int64
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, word, word, word)(address)


@cache
def _execute() -> Callable[..., None]:
    pointer, word = ctypes.c_void_p, ctypes.c_int64
    return ctypes.CFUNCTYPE(None, pointer, word, word, word, pointer)(_EXECUTE.address())


@cache
def _yield_address() -> int:
    """The address of the system call that yields the rest of a time slice."""
    if sys.platform == "win32":
        function = ctypes.WinDLL("kernel32").SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)


class Program:
    """Bound steps as one int64 table, and the shared control block of the workers that run it.

    One run at a time: concurrent runs need a program each (they cannot share scratch and temporaries anyway).
    `run_worker(0)` leads and returns when every step is done; up to `workers` − 1 helpers, each from a thread of its
    own, may join at any time, share the work, and return when the run is over. With `profile=True`, `cycles` holds
    after a run the time-stamp counter before each step and after the last.
    """

    __slots__ = ("_call", "_control", "_keep", "_starts", "_table", "_words", "cycles", "steps", "workers")

    def __init__(
        self, bound: Sequence[tuple[Step, Mapping[str, int]]], *, workers: int = 1, profile: bool = False
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self.workers = workers
        self.steps = tuple(step for step, _ in bound)
        descriptors = [step.bind(addresses) for step, addresses in bound]
        self._words = np.concatenate([np.empty(0, np.int64), *descriptors])
        self._starts = [0, *accumulate(map(len, descriptors))]
        begin = int(self._words.ctypes.data)
        rows = [
            (step.kernel.address(), begin + 8 * start, step.tiles, max(1, step.grain))
            for step, start in zip(self.steps, self._starts)
        ]
        self._table = np.array(rows, np.int64).reshape(-1, Row.WORDS)
        self.cycles = np.zeros(len(rows) + 1, np.int64)
        self._keep = np.zeros(Control.WORKERS + workers * _WORDS + _WORDS, np.int64)
        skip = (-self._keep.ctypes.data % LINE) // 8
        self._control = self._keep[skip:]
        self._control[Control.WORKERS : Control.WORKERS + workers * _WORDS : _WORDS] = len(rows) << 32  # nothing runs
        self._control[Control.YIELD] = _yield_address()
        self._control[Control.SPINS] = _SPINS
        self._control[Control.STAMPS] = self.cycles.ctypes.data if profile else 0
        self._call = _execute()

    def place(self, step: int, argument: int) -> int:
        """The number of word `argument` of the descriptor of step number `step` among all of the program."""
        return self._starts[step] + argument

    def rebind(self, places: npt.NDArray[np.intp], words: Words) -> None:
        """Replace the words, addresses and numbers, in these places from the next run on."""
        self._words[places] = words

    def run_worker(self, worker: int) -> None:
        """Take this worker's share of every step; the GIL is released meanwhile."""
        self._call(self._table.ctypes.data, len(self._table), worker, self.workers, self._control.ctypes.data)

    def run(self) -> None:
        """Run all workers on threads of their own, started for this run (a runtime keeps its threads)."""
        threads = [threading.Thread(target=self.run_worker, args=(worker,)) for worker in range(1, self.workers)]
        for thread in threads:
            thread.start()
        self.run_worker(0)
        for thread in threads:
            thread.join()


def run_routine(routine: Routine, buffers: Mapping[str, Array], *, workers: int = 1) -> None:
    """Run one operator on arrays (contiguous, with slack behind those read): for tests and measurements."""
    program, _keep = bind_routine(routine, buffers, workers=workers)
    program.run()


def bind_routine(
    routine: Routine, buffers: Mapping[str, Array], *, workers: int = 1
) -> tuple[Program, list[npt.NDArray[np.uint8]]]:
    """A program for one operator on arrays, and the memory of its temporaries, which must outlive it."""
    addresses = {name: int(array.ctypes.data) for name, array in buffers.items()}
    keep = []
    for name, size in (*routine.temporaries.items(), (SCRATCH.name, routine.scratch * workers)):
        keep.append(aligned_empty(size))
        addresses[name] = keep[-1].ctypes.data
    return Program([(step, addresses) for step in routine.steps], workers=workers), keep

"""Int8 kernels, from arrays to arrays, independent of any graph.

Rooms, each importing only from those before it: ``core`` (compiler, object cache, steps), ``tensors`` (quantization,
windows, broadcasting), ``layout`` (moving elements), ``elementwise``, ``pooling``, ``normalization``, ``attention``
(over caches), ``products`` (matrix products, convolutions), ``winograd``, ``weights`` (searches of quantization).
``loops`` holds their Numba functions in rooms of the same names, ``micro`` the LLVM IR generators; both are imported
only to compile.

How a kernel is made
--------------------
1. *The loop* is a Numba function in ``kernels/loops/``, written over typed pointers, never decorated there::

       def quantize(lo, hi, worker, x, y, count, qy): ...

   It computes tiles ``lo … hi − 1`` of its step and returns nothing. ``worker`` selects its private scratch. A tile
   is the kernel's own unit (a row, 4096 elements, …); tiles must be independent of each other. The code may not raise,
   allocate, print or touch Python objects (the compiler rejects it, naming the symbol). Pointers are indexed
   (``x[i]``); ``loops/core/memory.py`` makes typed pointers from addresses and has atomics and calls through addresses.
   Widen explicitly: ``np.int32(x[i])``.
2. *The declaration* stands beside the preparation, outside ``loops/``, so that a warm process never imports Numba::

       QUANTIZE_U8 = Kernel("graphopt.kernels.loops.elementwise.codes:quantize",
                            {"x": "f32*", "y": "u8*", "count": "i64", "qy": CodeRecord})

   Names and order must be the function's parameters after ``lo, hi, worker`` (checked when compiling). Kinds: ``i64``,
   ``f32`` and ``f64`` travel by value, ``u8* i8* i16* i32* i64* f32* …`` are addresses. A *record*, a NamedTuple of
   ``int`` and ``float`` fields, is as many i64 and f32: the loop reads ``qy.scale``. More than a dozen numbers come as
   records.
3. *The preparation* packs constants once and returns a `Routine`: steps in order, temporaries by name and size::

       def prepare_quantize(count, y: Quantization) -> Routine:
           arguments = {"x": Buffer("x"), "y": Buffer("y"), "count": count, "qy": y.record}
           return Routine((Step(QUANTIZE_U8, arguments, tiles=-(-count // 4096), grain=4),))

   A constant array is passed directly (C-contiguous; the step keeps it alive). `Buffer(name, offset)` stands for memory
   bound later: the operator's inputs and outputs (``x``, ``y``, ``residual``, …), temporaries named in
   ``Routine.temporaries``, and ``SCRATCH``. A kernel with scratch takes ``scratch`` (an address as ``i64``) and
   ``scratch_bytes``, works at ``scratch + worker * scratch_bytes`` and declares it in ``Step.scratch``. A table that
   holds addresses is a `LinkedTable` (``kernels/core/linked_table.py``): plans are cached on disk and linked again in
   other processes, so no address may hide in a plain number or array.
4. *Micro-kernels* that need an instruction the compiler does not choose are LLVM IR generators in ``kernels/micro/``;
   ``MicroKernel("graphopt.kernels.micro.tile:emit", arguments)`` is passed to a loop as an argument, and the loop
   calls it with ``call4/6/8``. They are written for a `Level` (``kernels/core/levels.py``: lanes, tile, dot sequence).

The ABI
-------
A compiled step is ``void step(int64 *descriptor, int64 lo, int64 hi, int64 worker)``; its descriptor holds one int64
per field: an address, a value, or the bits of a float. A *program* is a table of rows (function, descriptor, tiles,
grain). ``execute(program, steps, worker, workers, control)`` runs it entirely in compiled code: worker 0 leads from
step to step; each worker drains its own contiguous share of a step's tiles, ``grain`` at a time, then helps the others;
a step ends when its tiles are done, so that no worker waits for a helper that the scheduler delays. ctypes calls
``execute``, so the GIL is released. Kernels start no threads: `Program(bound, workers=n)` is run by a thread that calls
``run_worker(0)`` and up to n − 1 that call ``run_worker(i)``. Programs are single-run: concurrent runs take one each.

Memory: every buffer starts on a 64-byte line and has `SLACK` readable bytes behind it (`aligned_empty` gives both). A
step never writes outside its buffers. Tensors are dense; images are NHWC.

Runtime in short::

    program = Program([(step, addresses) for routine in plan for step in routine.steps], workers=2)
    # addresses: {"x": …, "y": …, "scratch": …, temporaries …} → absolute addresses, for Step.bind
    program.run_worker(0)    # in one thread; run_worker(1) in another, optionally

Objects are cached on disk (``kernels/core/object_cache.py``) by source, CPU and versions; GRAPHOPT_CACHE moves the
cache and GRAPHOPT_ISA forces a level. ``on_compile`` reports cold compilations.
"""

if not __name__.startswith("graphopt."):
    raise ImportError("import graphopt.kernels, not kernels: the top-level folder would be a second copy")

from graphopt.kernels.core.compiler import Function, Kernel, Library, MicroKernel, on_compile
from graphopt.kernels.core.levels import LEVELS, Level, available_levels, select_level
from graphopt.kernels.core.memory import SLACK, aligned_empty
from graphopt.kernels.core.steps import SCRATCH, Buffer, Program, Routine, Step, bind_routine, run_routine

__all__ = [
    "LEVELS", "SCRATCH", "SLACK", "Buffer", "Function", "Kernel", "Level", "Library", "MicroKernel", "Program",
    "Routine", "Step", "aligned_empty", "available_levels", "bind_routine", "on_compile", "run_routine",
    "select_level",
]  # fmt: skip

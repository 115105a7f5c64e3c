"""The interpreter of programs: a leader goes from step to step, helpers claim tiles of the current step."""

# mypy: ignore-errors

from __future__ import annotations

from numba.extending import register_jitable

from graphopt.kernels.core.struct_layouts import Control, Row
from graphopt.kernels.loops.core.memory import (
    address_of,
    atomic_add,
    atomic_load,
    atomic_store,
    call0,
    call4,
    cycle_counter,
    pause,
)

ROW, DESCRIPTOR, TILES, GRAIN = Row.WORDS, Row.DESCRIPTOR, Row.TILES, Row.GRAIN
WORKERS, YIELD, SPINS, STAMPS = Control.WORKERS, Control.YIELD, Control.SPINS, Control.STAMPS
_MASK = (1 << 32) - 1  # the lower half of a word of 64 bits


def execute(program, steps, worker, workers, control):
    """Run `steps` rows (`Row`) of a program as one of `workers` workers.

    control: words of `Control`, then one word per worker, a cache line each: step · 2³² + tiles claimed of this
    worker's share, the step being `steps` while nothing runs.

    Worker 0 leads: it publishes a step, works, and goes on once all tiles are done. The others claim tiles, first of
    their own share, for locality, then of the others'. The word that a claim changes contains its step, so that a late
    helper joins the current step, and no worker waits for an absent one.
    """
    base = address_of(control)
    words = base + 8 * WORKERS
    if worker != 0:
        _help(program, steps, worker, workers, control, base, words)
        return
    stamps = control[STAMPS]
    for step in range(steps):
        if stamps != 0:
            atomic_store(stamps + 8 * step, cycle_counter())
        tiles = program[ROW * step + TILES]
        if workers == 1:
            call4(program[ROW * step], program[ROW * step + DESCRIPTOR], 0, tiles, 0)
            continue
        atomic_store(base, 0)
        for other in range(workers):
            atomic_store(words + 64 * other, step << 32)
        for victim in range(workers):
            while _claim(program, steps, 0, workers, victim, base, words) > 0:
                pass
        spins = 0
        while atomic_load(base) < tiles:
            spins += 1
            _wait(spins, control)
    if workers > 1:
        for other in range(workers):
            atomic_store(words + 64 * other, steps << 32)
    if stamps != 0:
        atomic_store(stamps + 8 * steps, cycle_counter())


@register_jitable
def _claim(program, steps, worker, workers, victim, base, words):
    """Claim some tiles of a share and run them: 1 done, 0 none left, −1 the program has ended."""
    word = words + 64 * victim
    seen = atomic_load(word)
    step = seen >> 32
    if step >= steps:
        return -1
    grain = program[ROW * step + GRAIN]
    tiles = program[ROW * step + TILES]
    if (seen & _MASK) >= tiles * (victim + 1) // workers - tiles * victim // workers:
        return 0
    seen = atomic_add(word, grain)
    step = seen >> 32
    if step >= steps:
        return -1
    tiles = program[ROW * step + TILES]
    lo = tiles * victim // workers + (seen & _MASK)
    hi = min(lo + grain, tiles * (victim + 1) // workers)
    if lo >= hi:
        return 0
    call4(program[ROW * step], program[ROW * step + DESCRIPTOR], lo, hi, worker)
    atomic_add(base, hi - lo)
    return 1


@register_jitable
def _help(program, steps, worker, workers, control, base, words):
    spins = 0
    while True:
        worked = 0
        for turn in range(workers):
            victim = worker + turn
            if victim >= workers:
                victim -= workers
            claimed = 1
            while claimed > 0:
                claimed = _claim(program, steps, worker, workers, victim, base, words)
                worked += max(0, claimed)
            if claimed < 0:
                return
        spins = 0 if worked > 0 else spins + 1
        if worked == 0:
            _wait(spins, control)


@register_jitable
def _wait(spins, control):
    if spins < control[SPINS]:
        pause()
    else:
        call0(control[YIELD])

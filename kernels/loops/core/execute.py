"""The interpreter of programs: a leader takes them from step to step, helpers claim tiles of whatever step is on."""

# mypy: ignore-errors

from __future__ import annotations

from numba.extending import register_jitable

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

_MASK = (1 << 32) - 1


def execute(program, steps, worker, workers, control):
    """Run `steps` rows (function, descriptor, tiles, grain) of a program as one of `workers` workers.

    control: word 0 tiles done of the step, 16 address of the yield call, 17 spins before it, 18 address of the
    time-stamps or 0; from word 24 one word per worker, a cache line each: step · 2³² + tiles claimed of this worker's
    share, the step being `steps` while nothing runs.

    Worker 0 leads: it publishes a step, works, and goes on once all tiles are done. The others claim tiles, first of
    their own share, for locality, then of the others'. What a claim is of is read from the word it changed, so a helper
    that was away joins whichever step is on, and one that never comes is not waited for.
    """
    base = address_of(control)
    words = base + 8 * 24
    if worker != 0:
        _help(program, steps, worker, workers, control, base, words)
        return
    stamps = control[18]
    for step in range(steps):
        if stamps != 0:
            atomic_store(stamps + 8 * step, cycle_counter())
        tiles = program[4 * step + 2]
        if workers == 1:
            call4(program[4 * step], program[4 * step + 1], 0, tiles, 0)
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
    """Claim some tiles of a share and run them: 1 done, 0 none left, −1 the program is over."""
    word = words + 64 * victim
    seen = atomic_load(word)
    step = seen >> 32
    if step >= steps:
        return -1
    grain = program[4 * step + 3]
    tiles = program[4 * step + 2]
    if (seen & _MASK) >= tiles * (victim + 1) // workers - tiles * victim // workers:
        return 0
    seen = atomic_add(word, grain)
    step = seen >> 32
    if step >= steps:
        return -1
    tiles = program[4 * step + 2]
    lo = tiles * victim // workers + (seen & _MASK)
    hi = min(lo + grain, tiles * (victim + 1) // workers)
    if lo >= hi:
        return 0
    call4(program[4 * step], program[4 * step + 1], lo, hi, worker)
    atomic_add(base, hi - lo)
    return 1


@register_jitable
def _help(program, steps, worker, workers, control, base, words):
    spins = 0
    while True:
        found = 0
        for turn in range(workers):
            victim = worker + turn
            if victim >= workers:
                victim -= workers
            claimed = 1
            while claimed > 0:
                claimed = _claim(program, steps, worker, workers, victim, base, words)
                found += max(0, claimed)
            if claimed < 0:
                return
        spins = 0 if found > 0 else spins + 1
        if found == 0:
            _wait(spins, control)


@register_jitable
def _wait(spins, control):
    if spins < control[17]:
        pause()
    else:
        call0(control[16])

"""The interpreter of programs: workers share each step by tile ranges and meet at a barrier."""

# mypy: ignore-errors

from __future__ import annotations

from graphopt.kernels.loops.memory import (
    address_of,
    atomic_add,
    atomic_load,
    atomic_store,
    call0,
    call4,
    cycle_counter,
    pause,
)


def execute(program, steps, worker, workers, control):
    """Run `steps` rows (function, descriptor, tiles, grain) of a program as one of `workers` workers.

    control: word 0 workers arrived, word 8 barrier generation, 16 address of the yield call, 17 spins before it,
    18 address of the time-stamps or 0; from word 24 two sets of one counter per worker, a cache line each, used by even
    and odd steps in turn: a set is reset by the last to arrive, when nobody can still be claiming from it.

    Each worker first drains its own contiguous share of the tiles, for locality, then helps the others.
    """
    base = address_of(control)
    stamps = control[18]
    for step in range(steps):
        function = program[4 * step]
        descriptor = program[4 * step + 1]
        tiles = program[4 * step + 2]
        grain = program[4 * step + 3]
        if stamps != 0 and worker == 0:
            atomic_store(stamps + 8 * step, cycle_counter())
        if workers == 1:
            call4(function, descriptor, 0, tiles, 0)
            continue
        counters = base + 8 * (24 + 8 * workers * (step & 1))
        for turn in range(workers):
            victim = worker + turn
            if victim >= workers:
                victim -= workers
            first = tiles * victim // workers
            last = tiles * (victim + 1) // workers
            counter = counters + 64 * victim
            while first < last and atomic_load(counter) < last - first:
                lo = first + atomic_add(counter, grain)
                if lo >= last:
                    break
                call4(function, descriptor, lo, min(lo + grain, last), worker)
        generation = atomic_load(base + 64)
        if atomic_add(base, 1) == workers - 1:
            for other in range(workers):
                atomic_store(counters + 64 * other, 0)
            atomic_store(base, 0)
            atomic_store(base + 64, generation + 1)
        else:
            spins = 0
            while atomic_load(base + 64) == generation:
                spins += 1
                if spins < control[17]:
                    pause()
                else:
                    call0(control[16])
    if stamps != 0 and worker == 0:
        atomic_store(stamps + 8 * steps, cycle_counter())

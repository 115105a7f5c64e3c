"""Steps, programs, the object cache and the levels, on the kernels that quantize and copy."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.kernels import Buffer, Kernel, Program, Step, bind_routine, run_routine, select_level
from graphopt.kernels.core.levels import available_levels
from graphopt.kernels.core.states import quickly_pickled
from graphopt.kernels.elementwise.codes import prepare_quantize
from graphopt.kernels.layout.moves import COPY_ROWS
from graphopt.kernels.tensors.quantization import Quantization
from tests.kernels import naive


@settings(deadline=None)
@given(
    count=st.integers(0, 20000),
    scale=st.floats(0.0078125, 10, width=32),
    zero_point=st.integers(0, 255),
    workers=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_quantize_equals_the_operator(count: int, scale: float, zero_point: int, workers: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.integers(-600, 600, count) / 2 * scale).astype(np.float32)  # ties abound
    x[rng.random(count) < 0.01] = rng.choice(np.array([np.nan, np.inf, -np.inf, 1e30], np.float32))
    y = naive.empty((count,), np.uint8)
    run_routine(
        prepare_quantize(count, Quantization(scale, zero_point)), {"x": naive.placed(x), "y": y}, workers=workers
    )
    np.testing.assert_array_equal(y, naive.quantize(x, scale, zero_point, np.uint8))


def test_a_program_runs_its_steps_in_order_again_and_again() -> None:
    count = 100_000
    x = naive.placed(np.linspace(-9, 9, count, dtype=np.float32))
    y = naive.empty((count,), np.uint8)
    coarse = prepare_quantize(count, Quantization(0.5, 10)).steps
    fine = prepare_quantize(count, Quantization(0.1, 100)).steps
    addresses = {"x": x.ctypes.data, "y": y.ctypes.data}
    program = Program([(step, addresses) for step in (*coarse, *fine)], workers=3, profile=True)
    for _ in range(20):
        y[:] = 0
        program.run()
        np.testing.assert_array_equal(y, naive.quantize(x, 0.1, 100, np.uint8))
    assert np.all(np.diff(program.cycles) > 0)


def test_helpers_may_come_late_or_never() -> None:
    """Many short runs of a program whose steps depend on each other; helpers of earlier runs join whichever is on."""
    count = 40_000
    x = naive.placed(np.linspace(-9, 9, count, dtype=np.float32))
    y = naive.empty((count,), np.uint8)
    steps = [step for zero in range(8) for step in prepare_quantize(count, Quantization(0.1, zero)).steps]
    program = Program([(step, {"x": x.ctypes.data, "y": y.ctypes.data}) for step in steps], workers=3)
    over = threading.Event()

    def keep_helping(worker: int) -> None:
        while not over.is_set():
            program.run_worker(worker)  # returns at once where nothing runs

    threads = [threading.Thread(target=keep_helping, args=(1,))]  # worker 2 never comes
    for thread in threads:
        thread.start()
    want = naive.quantize(x, 0.1, 7, np.uint8)
    try:
        for _ in range(150):
            y[:] = 0
            program.run_worker(0)
            assert np.array_equal(y, want)
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_programs_run_side_by_side() -> None:
    x = naive.placed(np.linspace(-9, 9, 50_000, dtype=np.float32))
    outputs = [naive.empty(x.shape, np.uint8) for _ in range(4)]
    bound = [
        bind_routine(prepare_quantize(x.size, Quantization(0.1, i)), {"x": x, "y": y}) for i, y in enumerate(outputs)
    ]
    threads = [threading.Thread(target=program.run) for program, _ in bound]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, y in enumerate(outputs):
        np.testing.assert_array_equal(y, naive.quantize(x, 0.1, i, np.uint8))


def test_a_declaration_must_match_its_function() -> None:
    with pytest.raises(ValueError, match="its declaration says"):
        Kernel("graphopt.kernels.loops.elementwise.codes:quantize", {"x": "f32*"}).address()
    with pytest.raises(ValueError, match="takes"):
        Step(COPY_ROWS, {"x": Buffer("x")}, tiles=1)


def test_a_record_travels_field_by_field() -> None:
    (step,) = prepare_quantize(10, Quantization(0.5, 3)).steps
    assert list(step.arguments) == ["x", "y", "count", "qy.scale", "qy.zero", "qy.least", "qy.greatest"]
    loose = {"x": Buffer("x"), "y": Buffer("y"), "count": 10, "qy": (0.5, 3, 0, 255)}
    with pytest.raises(ValueError, match="takes a CodeRecord as qy"):
        Step(step.kernel, loose, tiles=1)


def _child(cache: Path, code: str) -> str:
    environment = dict(os.environ, GRAPHOPT_CACHE=str(cache))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_interrupted_compilation_leaves_nothing_behind(tmp_path: Path) -> None:
    interrupted = (
        "from graphopt.kernels.core import compiler\n"
        "from graphopt.kernels.layout.moves import COPY_ROWS\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        "emit, compiler._emit = compiler._emit, stop\n"
        "try: COPY_ROWS.address()\n"
        "except KeyboardInterrupt: compiler._emit = emit\n"
        "assert COPY_ROWS.address(); print('compiled')"
    )
    assert _child(tmp_path, interrupted) == "compiled"
    assert _child(tmp_path, _USE) == "0 False"


_USE = (
    "import sys; from graphopt.kernels.layout.moves import COPY_ROWS; from graphopt.kernels import on_compile; "
    "said = []; on_compile(said.append); assert COPY_ROWS.address(); print(len(said), 'numba' in sys.modules)"
)


def test_the_cache_is_warm_repairs_itself_and_may_be_missing(tmp_path: Path) -> None:
    assert _child(tmp_path, _USE) == "1 True"
    assert _child(tmp_path, _USE) == "0 False", "a warm process needs no compiler"
    (stored,) = tmp_path.rglob("*.o")
    intact = stored.read_bytes()
    stored.write_bytes(intact[:-7])
    assert _child(tmp_path, _USE) == "1 True"
    assert stored.read_bytes() == intact
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert _child(blocked, _USE) == "1 True"


def test_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAPHOPT_ISA", raising=False)
    assert select_level() is available_levels()[0]
    monkeypatch.setenv("GRAPHOPT_ISA", "portable")
    assert select_level().name == "portable"
    with pytest.raises(ValueError, match="no ISA level 'mmx'"):
        select_level("mmx")


def test_a_step_without_buffers_runs_by_itself() -> None:
    count = 50_000
    x, y = naive.placed(np.linspace(-9, 9, count, dtype=np.float32)), naive.empty((count,), np.uint8)
    (step,) = prepare_quantize(count, Quantization(0.1, 100)).steps
    given = {"x": x, "y": y}
    arguments = [given.get(value.name) if isinstance(value, Buffer) else value for value in step.arguments.values()]
    record = step.kernel.fields["qy"]
    assert isinstance(record, type)
    own = Step(
        step.kernel, {"x": x, "y": y, "count": count, "qy": record(*arguments[3:])}, tiles=step.tiles
    )  # fmt: skip
    own.run()
    np.testing.assert_array_equal(y, naive.quantize(x, 0.1, 100, np.uint8))


def test_steps_pickle_as_dataclasses_do() -> None:
    (step,) = prepare_quantize(9, Quantization(0.1, 100)).steps
    copy = pickle.loads(pickle.dumps(step))
    assert copy == step and copy.kernel == step.kernel and copy.kernel.fields == step.kernel.fields
    for value in (step, step.kernel, Buffer("x", 8)):
        assert value.__getstate__() == [getattr(value, field.name) for field in fields(value)]
    with pytest.raises(ValueError, match="fewer than two"):
        quickly_pickled(dataclass(frozen=True, slots=True)(type("One", (), {"__annotations__": {"a": "int"}})))

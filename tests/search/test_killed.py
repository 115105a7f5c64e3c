"""A search that is killed in the middle, as a process: what it found is on disk, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.quantize.nets import convnet, images

KILLS = 2, 8  # after so many trials: where layers are alike, and where plans are solved
TRIALS = 28  # more than there are to try; of fewer, what is alike would take all
SPACE = "static int8,weights8,weights4,float16,channels,calibration"
WAIT = 900.0  # seconds until the test gives up, on the slowest machine: a choice


def records(folder: Path) -> list[bytes]:
    """The whole lines of the history."""
    file = folder / "history.jsonl"
    return [line for line in (file.read_bytes() if file.exists() else b"").splitlines(True) if line.endswith(b"\n")]


def trials(lines: list[bytes]) -> int:
    return sum(json.loads(line).get("kind") in ("alike", "trial") for line in lines)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_a_kill_costs_at_most_one_trial(tmp_path):
    onnx.save(convnet(), tmp_path / "m.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([next(iter(feed.values())) for feed in images(8)]))
    out = tmp_path / "found"
    words = [
        sys.executable, "-m", "graphopt", "search", "m.onnx", "--calibration", "data.npz", "--out", "found",
        "--budget", f"{TRIALS} trials", "--space", SPACE,
    ]  # fmt: skip
    folder = str(Path(__file__).parents[2])
    ours = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])}
    left: list[bytes] = []
    for after in KILLS:
        process = subprocess.Popen(words, cwd=tmp_path, env=ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + WAIT
        while trials(records(out)) < after and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        before, left = left, records(out)
        assert left[: len(before)] == before and after <= trials(left) < TRIALS
        front = json.loads((out / "front.json").read_text())
        assert trials(left) - 1 <= front["trials"] <= trials(left) and front["points"][0]["name"] == "original"
        for point in front["points"][1:]:
            onnx.checker.check_model(onnx.load(out / Path(point["path"]).name))
    ended = subprocess.run(words, cwd=tmp_path, env=ours, capture_output=True, text=True, timeout=WAIT, check=False)
    assert ended.returncode == 0, ended.stderr
    now = records(out)
    assert now[: len(left)] == left and TRIALS >= trials(now) > trials(left)
    names = [json.loads(line)["point"]["name"] for line in now if b'"point"' in line]
    assert names == ["original", *(f"trial {number}" for number in range(1, trials(now) + 1))]
    assert json.loads((out / "front.json").read_text())["trials"] == trials(now)

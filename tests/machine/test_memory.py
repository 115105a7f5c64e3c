"""What is free: of the machine, of a container, and where nothing is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.machine import memory


def test_the_least_of_machine_and_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:   8 kB\n")
    monkeypatch.setattr(memory, "_SYSTEM", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert memory.free_memory() == 8192
    for limit, free in (("max", 8192), ("5000", 4000), ("900", 0)):
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text("1000\n")
        assert memory.free_memory() == free
    monkeypatch.setattr(memory, "_SYSTEM", tmp_path / "none")
    monkeypatch.setattr(memory, "_GROUP", tmp_path / "none")
    assert memory.free_memory() is None

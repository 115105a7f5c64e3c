"""Files that are the old one or the new one; targets that cannot be written; where the cache lies."""

import os
import sys
from pathlib import Path

import pytest

from graphopt.errors import OutputError
from graphopt.machine.cpu import cpu_count, host_cpu
from graphopt.machine.files import cache_folder, check_target, replace_file, reported


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_whole(tmp_path, durable):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    replace_file(str(path), lambda file: file.write(b"new"), durable=durable)
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["f"]


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        replace_file(str(path), write)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["f"]


def test_targets_that_cannot_be_written(tmp_path):
    for path, reason in (
        (f"{tmp_path}/", "names no file"),
        (str(tmp_path), "is a directory"),
        (str(tmp_path / "no" / "f"), "no directory"),
    ):
        with pytest.raises(OutputError, match=reason):
            check_target(path)
    check_target(tmp_path / "f")


def test_errors_of_the_system_name_the_file():
    with pytest.raises(OutputError, match="'f' cannot be written: No space left"), reported("f"):
        raise OSError(28, "No space left on device")


def test_the_cache_lies_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("GRAPHOPT_CACHE", "/elsewhere")
    assert cache_folder() == Path("/elsewhere")
    monkeypatch.setenv("GRAPHOPT_CACHE", "")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/graphopt")


def test_the_cpu_is_known():
    name, features = host_cpu()
    assert name and features and 1 <= cpu_count() <= os.cpu_count()

"""Arrays on disk: the same elements, in files that go with them."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import OutputError
from graphopt.machine import spool as module
from graphopt.machine.spool import Spool, place_of


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "SEGMENT", 1 << 16)
    return tmp_path


def test_arrays_are_kept(folder: Path) -> None:
    spool, rng = Spool(), np.random.default_rng(0)
    given = [
        rng.standard_normal((n, 3)).astype(kind) for n, kind in ((1, "f4"), (5000, "f4"), (0, "f2"), (70000, "f2"))
    ]
    kept = [spool.keep(array) for array in given]
    kept.append(spool.keep(given[1].T))
    for ours, theirs in zip(kept, [*given, given[1].T], strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert not ours.flags.writeable or not ours.size
    assert len(list(folder.iterdir())) > 1  # several segments
    for array in (kept[1], kept[3], kept[4], kept[1][1000:]):
        place = place_of(array)
        assert place is not None
        with open(place.path, "rb") as file:
            file.seek(place.offset)
            assert file.read(array.nbytes) == array.tobytes()
    assert place_of(kept[4].T) is None
    assert place_of(np.ones(3)) is None


def test_files_go_with_their_arrays(folder: Path) -> None:
    spool = Spool()
    kept = spool.keep(np.arange(10))[2:4]
    del spool
    gc.collect()
    assert list(folder.iterdir())
    assert kept.tolist() == [2, 3]
    del kept
    gc.collect()
    assert not list(folder.iterdir())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_no_room_is_one_line(folder: Path) -> None:
    folder.chmod(0o500)
    with pytest.raises(OutputError, match="temporary folder"):
        Spool().keep(np.ones(3))

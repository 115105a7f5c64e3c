"""Arrays on disk: the same elements, in files that go with them."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
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


_KEEPS = """
import sys
import numpy as np
from graphopt.machine.spool import Spool, place_of
kept = Spool().keep(np.arange(5))
print(place_of(kept).path, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on files")
def test_files_of_killed_processes_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = subprocess.Popen(
        [sys.executable, "-c", _KEEPS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip
    assert keeper.stdin is not None and keeper.stdout is not None
    left = Path(keeper.stdout.readline().strip())
    foreign = folder / "graphopt-of-others"
    foreign.write_bytes(b"")
    mine = Spool().keep(np.arange(3))
    module._sweep.cache_clear()
    again = Spool().keep(np.arange(4))
    assert left.exists()  # its process lives, and so do both of this one
    assert all(Path(place_of(array).path).exists() for array in (mine, again))  # type: ignore[union-attr]
    keeper.send_signal(signal.SIGKILL)
    keeper.communicate()
    assert left.exists() and left.parent == folder
    module._sweep.cache_clear()
    uid = os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: uid + 1)
        module._sweep(str(folder))
    assert left.exists()  # of another user
    module._sweep.cache_clear()
    module._sweep(str(folder))
    assert not left.exists() and foreign.exists()
    assert all(Path(place_of(array).path).exists() for array in (mine, again))  # type: ignore[union-attr]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_no_room_is_one_line(folder: Path) -> None:
    folder.chmod(0o500)
    with pytest.raises(OutputError, match="temporary folder"):
        Spool().keep(np.ones(3))

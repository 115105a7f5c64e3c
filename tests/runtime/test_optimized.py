"""The Session of an optimised model, and what `optimize` measures for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.runtime.place.measured import partition_key, region_times
from tests.runtime.test_session import FASHION, exact_session, sqnr

IMAGES = {"image": np.random.default_rng(0).random((3, 1, 28, 28), np.float32)}


def test_the_session_of_a_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    result = graphopt.optimize(FASHION, target="graphopt")
    measured = region_times(result.session().threads).load()
    assert measured and all(kernels > 0 and stock > 0 for kernels, stock in measured.values())
    want = exact_session(FASHION).run(None, IMAGES)[0]
    for threads in (1, 2):
        session = result.session(threads=threads)
        assert isinstance(session, graphopt.Session) and session.threads == threads
        assert sqnr(session.run(None, IMAGES)[0], want) >= 40


def test_nothing_is_measured_for_other_targets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    graphopt.optimize(FASHION, validate=False)
    assert not (tmp_path / "measurements").exists()


def test_a_partition_measured_slower_is_left_to_onnxruntime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    session = graphopt.Session(FASHION, 1, kernels=True)
    assert session.regions
    assert region_times(1).add({partition_key(session.greedy, "all"): (2.0, 1.0)})
    left = graphopt.Session(FASHION, 1)
    assert not left.regions and "measured slower than onnxruntime here" in str(left.describe())
    assert graphopt.Session(FASHION, 1, kernels=True).regions

"""The Session of an optimised model, and what `optimize` measures for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.runtime import warmup
from graphopt.runtime.place.measured import partition_key, region_times
from tests.runtime.test_session import FASHION, exact_session, sqnr

IMAGES = {"image": np.random.default_rng(0).random((3, 1, 28, 28), np.float32)}


@pytest.mark.parametrize("won", [True, False])
def test_the_session_of_a_result(won: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Times are given: what a busy machine would measure decides nothing here."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    race = warmup.Race(1.0, 2.0) if won else warmup.Race(2.0, 1.0, 0.7)
    monkeypatch.setattr(warmup, "_race", lambda candidate, beside, seconds, threads: race)
    result = graphopt.optimize(FASHION, target="graphopt")
    measured = region_times(result.session().threads).load()
    assert measured and all(first > 0 and second > 0 for first, second in measured.values())
    want = exact_session(FASHION).run(None, IMAGES)[0]
    for threads in (1, 2):
        session = result.session(threads=threads)
        assert isinstance(session, graphopt.Session) and session.threads == threads
        assert sqnr(session.run(None, IMAGES)[0], want) >= 40


def test_nothing_is_measured_for_other_targets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    graphopt.optimize(FASHION, validate=False)
    assert not (tmp_path / "measurements").exists()


def test_a_model_measured_faster_in_onnxruntime_is_left_to_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    session = graphopt.Session(FASHION, 1, kernels=True)
    assert session.regions
    assert region_times(1).add({partition_key(session.greedy, "whole"): (1.0, 2.0)})
    left = graphopt.Session(FASHION, 1)
    assert not left.regions and "measured: whole in onnxruntime" in str(left.describe())
    assert graphopt.Session(FASHION, 1, kernels=True).regions

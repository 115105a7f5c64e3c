"""What holds for all tests: no command spends its time on the headline's figures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def brief_headlines() -> Iterator[None]:
    """Nothing is decided by the half second for each runtime that a command takes for the report's first line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graphopt.cli.optimizing._SECONDS", 0.02)
        yield

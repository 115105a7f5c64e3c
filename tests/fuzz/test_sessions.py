"""Sessions on kernels, on random graphs: every region equals the reference, every result is near onnxruntime's."""

from collections import Counter

import pytest

from graphopt.testing.equivalent import failing_example

from .sessions import model_of, trial_of

GRAPHS, PARTS = 48, 2  # about 5 s a part once the kernels are compiled; the nightly run has thousands


@pytest.mark.parametrize("part", range(PARTS))
def test_every_session_is_right(part):
    ran = Counter()
    for seed in range(part, GRAPHS, PARTS):
        trial = trial_of(seed)
        assert not trial.failed, f"seed {seed}: {trial.status}: {trial.reason}{failing_example(model_of(seed))}"
        ran += trial.fired
    assert ran["MatMul"] and ran["Quantize"] and len(ran) >= 4, ran

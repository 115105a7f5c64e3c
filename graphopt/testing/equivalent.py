"""An assertion that two models compute the same results."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..equivalence import Comparison, FeedData
    from ..ir import Model
    from ..onnx_io.source import ModelSource


def assert_equivalent(
    a: ModelSource | Model, b: ModelSource | Model, inputs: FeedData | None = None, samples: int = 4,
    rtol: float = 1e-4, *, seed: int = 0, min_sqnr: float | None = None, power: bool = True,
    intermediates: bool = True, threads: int | None = None, min_power: float | None = None,
) -> Comparison:  # fmt: skip
    """Assert that the candidate `b` computes the results of the original `a`; the arguments are `graphopt.compare`'s.

    `min_power` also asks that this share of 1 % perturbations of single weights would have been noticed. Returns the
    comparison; raises AssertionError with its text unless the models are equal (unverified is not equal).
    """
    from ..equivalence import compare

    comparison = compare(
        a, b, inputs, samples, rtol, seed=seed, min_sqnr=min_sqnr, power=power, intermediates=intermediates,
        threads=threads,
    )  # fmt: skip
    if comparison.status != "equal":
        raise AssertionError(f"the models are not equivalent\n{comparison}")
    if min_power is not None and (comparison.power is None or comparison.power < min_power):
        raise AssertionError(f"the models agree, but the power to see a difference is below {min_power}\n{comparison}")
    return comparison

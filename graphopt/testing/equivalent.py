"""An assertion that two models compute the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..equivalence import Comparison


def assert_equivalent(
    a: Any,
    b: Any,
    inputs: Any = None,
    samples: int = 4,
    rtol: float = 1e-4,
    *,
    min_power: float | None = None,
    **options: Any,
) -> Comparison:
    """Assert that the candidate `b` computes what the original `a` does; the arguments are those of `graphopt.compare`.

    `min_power` also asks that this share of 1 % perturbations of single weights would have been noticed. Returns the
    comparison; raises AssertionError with its text unless the models are equal (unverified is not equal).
    """
    from ..equivalence import compare

    found = compare(a, b, inputs, samples, rtol, **options)
    if found.status != "equal":
        raise AssertionError(f"the models are not equivalent\n{found}")
    if min_power is not None and (found.power is None or found.power < min_power):
        raise AssertionError(f"the models agree, but the power to see a difference is below {min_power}\n{found}")
    return found

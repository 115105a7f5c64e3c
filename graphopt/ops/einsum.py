"""The equation of Einsum."""

from __future__ import annotations


def einsum_terms(equation: str) -> tuple[list[str], str]:
    """The letters of each operand and of the result, "..." where an ellipsis stands.

    A result that is not named has the ellipsis, if there is one, and then every letter that occurs once, in order
    (ONNX: Einsum).
    """
    given, arrow, result = equation.replace(" ", "").partition("->")
    terms = given.split(",")
    if not arrow:
        letters = "".join(terms).replace("...", "")
        result = "..." * ("..." in given) + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    return terms, result

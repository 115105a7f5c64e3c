"""Choices by name: which node a name means."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.compress.choices import chosen_for


@dataclass(frozen=True)
class Named:
    """A node as far as choices read it."""

    origins: tuple[str, ...] = ()


def test_an_origin_counts_where_no_node_has_its_name():
    fused, conv, bias = Named(("gemm", "norm")), Named(("conv",)), Named(("conv", "other"))
    names = {fused: "fused", conv: "conv", bias: "Add"}
    layers = {"norm": "float16", "conv": "static int8"}
    assert chosen_for(names, layers) == {fused: "float16", conv: "static int8"}
    assert chosen_for(names, {"other": "dynamic", "Add": "float32"}) == {bias: "float32"}
    assert chosen_for(names, {"other": "dynamic"}) == {bias: "dynamic"}

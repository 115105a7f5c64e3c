"""The caller's choices for single layers, integers with their bits or float; and the decisions in the same words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...compress.choices import (
    BLOCKS,
    FLOAT32,
    QUANTIZED,
    STORED8,
    block_sizes,
    check_names,
    chosen_for,
    layer_names,
    word_of,
)  # fmt: skip
from ...compress.layers.linear import PRODUCTS
from ...errors import OptionError
from ...ir import Model, Node
from .candidates.assignment import Assignment
from .candidates.calibrated_model import CalibratedModel
from .candidates.units import RECURRENT, Unit, useful
from .options import INSIDE, Quantize
from .place.accuracy_guard import refine


@dataclass(frozen=True, slots=True)
class Chosen:
    """The caller's placement: units on integers, those of them with finer codes, those with fewer than 8 bits, and
    float units.

    is_complete: every layer with weights is placed; the operators between them then follow their neighbors.
    """

    integers: frozenset[Unit]
    finer: frozenset[Unit]
    narrow: frozenset[Unit]
    floats: frozenset[Unit]
    is_complete: bool

    def completed(self, assignment: Assignment) -> Assignment:
        """The assignment of the placed layers and of the useful operators between them."""
        return assignment.with_units(_between(self.integers, assignment.units))

    def applied(self, calibrated: CalibratedModel, assignment: Assignment) -> Assignment:
        """The assignment with the caller's placement and finer codes."""
        placed = assignment.with_units((assignment.units - self.floats) | self.integers)
        return refine(calibrated, placed, self.finer)


def check_layers(model: Model, options: Quantize) -> None:
    """OptionError for a choice outside of branches whose layer the model lacks."""
    names = layer_names(model.graph)
    known = (*names.values(), *(origin for node in names for origin in node.origins))
    check_names("quantize", (name for name in options.layers if INSIDE not in name), known)


def chosen_units(calibrated: CalibratedModel) -> Chosen:
    """The units that the options place by name. OptionError for a choice that a layer cannot satisfy."""
    options, names = calibrated.options, layer_names(calibrated.model.graph)
    choices = chosen_for(names, options.layers)
    integers, finer, narrow, floats = set[Unit](), set[Unit](), set[Unit](), set[Unit]()
    candidates = _candidates(calibrated)
    for unit in candidates:
        choice = choices.pop(unit.node, None)
        if choice is not None and _mode_of(choice, unit.node, options) == options.mode:
            bits = QUANTIZED[choice][1]
            _require_bits(calibrated, unit, names[unit.node], choice, bits)
            integers.add(unit)
            if bits < 8:
                narrow.add(unit)
            elif unit.node in calibrated.finer and (options.mode != "dynamic" or choice == STORED8):
                finer.add(unit)
        elif choice is not None:
            floats.add(unit)
    for node, choice in choices.items():
        if _mode_of(choice, node, options) == options.mode and node.op not in RECURRENT:
            reason = dict(calibrated.units.refused).get(names[node], f"{node.op} has no such form here")
            raise OptionError(f"quantize: layers: {names[node]} cannot be {choice}: {reason}")
    placed = integers | floats
    is_complete = bool(placed) and all(u in placed for u in candidates if u.linear is not None)
    return Chosen(frozenset(integers), frozenset(finer), frozenset(narrow), frozenset(floats), is_complete)


def _require_bits(calibrated: CalibratedModel, unit: Unit, name: str, choice: str, bits: int) -> None:
    """OptionError where codes do not have the chosen bits or blocks; tables without a head always have 8 bits."""
    if unit.node.op == "Conv" and choice in BLOCKS:
        raise OptionError(f"quantize: layers: {name} cannot be {choice}: blocks are for products, not for Conv")
    assignment = calibrated.assignment
    if unit.linear is None or unit.is_table or unit.node in calibrated.finer:
        return
    actual = assignment.codes[unit.node].bits
    if actual != bits:
        is_shared = unit.node in assignment.shared.codes_of
        why = "shared with another layer" if is_shared else f"stored in {actual} bits for target {assignment.target}"
        raise OptionError(f"quantize: layers: {name} cannot be {choice}: its weight is {why}")


def choices_of(calibrated: CalibratedModel, assignment: Assignment | None) -> dict[str, str]:
    """The decisions by layer name: for layers with weights, and for operators that do not follow their neighbors;
    `Chosen.completed` and `applied` reproduce the same units from them."""
    names, order = layer_names(calibrated.model.graph), {n: i for i, n in enumerate(calibrated.model.graph)}
    units = frozenset[Unit]() if assignment is None else assignment.units
    layers = frozenset(u for u in units if u.linear is not None)
    following = _between(layers, calibrated.assignment.units)
    listed = {u for u in _candidates(calibrated) if u.linear is not None} | (following ^ units)
    blocks = block_sizes(calibrated.model.graph, calibrated.options.layers)
    choices = {}
    for unit in sorted(listed, key=lambda u: order[u.node]):
        codes = None if assignment is None or unit.linear is None else assignment.codes[unit.node]
        word = word_of(calibrated.options.mode, 8 if codes is None else codes.bits, blocks.get(unit.node))
        word = STORED8 if codes is not None and codes.is_stored else word
        choices[names[unit.node]] = word if unit in units else FLOAT32
    return choices


def _mode_of(choice: str, node: Node | None, options: Quantize) -> str:
    """The mode that implements a layer's choice; "" for floats. In mode dynamic, products that read stored weights are
    quantized with the others."""
    mode = QUANTIZED.get(choice, ("",))[0]
    is_stored = options.mode == "dynamic" and choice == STORED8 and node is not None and node.op in PRODUCTS
    return options.mode if is_stored else mode


def _candidates(calibrated: CalibratedModel) -> list[Unit]:
    """The units that integers can run, including tables left float for accuracy."""
    units = calibrated.assignment.units
    known = [u for u in calibrated.units.members if u in units or u.node in calibrated.assignment.codes]
    return [*known, *(u for u in units if u not in set(known))]


def _between(layers: frozenset[Unit], units: frozenset[Unit]) -> frozenset[Unit]:
    """The layers, and the weightless operators that are useful between them."""
    return layers | useful(layers | {u for u in units if u.linear is None})


def by_mode(model: Model, options: Quantize) -> list[Quantize]:
    """The options of each run needed for the root graph's layers, the usual mode and width first.

    Every other run quantizes only the layers named for it: one run per mode, and in mode weights one per width. In mode
    static one run serves all widths.
    """
    root = {name: choice for name, choice in options.layers.items() if INSIDE not in name}
    names = layer_names(model.graph)
    nodes = {known: node for node, name in names.items() for known in (*node.origins, name)}
    runs: dict[tuple[str, int], dict[str, str]] = {}
    for name, choice in root.items():
        mode, bits = _mode_of(choice, nodes.get(name), options), QUANTIZED.get(choice, ("", 0))[1]
        is_usual = mode == options.mode and (mode != "weights" or bits == options.weight_bits or choice == STORED8)
        if mode and not is_usual:
            runs.setdefault((mode, bits if mode == "weights" else 8), {})[name] = choice
    order = ("static", "dynamic", "weights")
    others = [
        _for_these(options, mode, bits, runs[mode, bits], names)
        for mode, bits in sorted(runs, key=lambda run: (order.index(run[0]), -run[1]))
    ]
    later = {
        name: choice for (mode, _), chosen in runs.items() if mode == options.mode for name, choice in chosen.items()
    }
    if not later:
        return [options, *others]
    first = replace(
        options, layers={name: choice for name, choice in options.layers.items() if name not in later},
        nodes_to_exclude=(*options.nodes_to_exclude, *(names[node] for node in chosen_for(names, later))),
    )  # fmt: skip
    return [first, *others]


def _for_these(
    options: Quantize, mode: str, bits: int, layers: Mapping[str, str], names: Mapping[Node, str]
) -> Quantize:
    """The options of a run for some layers alone."""
    chosen = chosen_for(names, layers)
    others = (name for node, name in names.items() if node not in chosen)
    return replace(
        options, mode=mode, weight_type="int8" if bits == 8 else f"int{bits}", layers=layers,
        rounding=options.rounding if mode == "static" else bool(options.rounding),
        activation_type=options.activation_type if mode == "static" else "uint8",
        nodes_to_exclude=(*options.nodes_to_exclude, *others),
    )  # fmt: skip


def inside(layers: Mapping[str, str], part: str) -> dict[str, str]:
    """The choices for the layers of a branch, by their names in it; `part` is such as "If_0, then branch"."""
    return {name[len(part) + 2 :]: choice for name, choice in layers.items() if name.startswith(f"{part}: ")}


def outside(layers: Mapping[str, str], part: str) -> dict[str, str]:
    """The choices for the layers of a branch, by their names in the whole."""
    return {f"{part}: {name}": choice for name, choice in layers.items()}

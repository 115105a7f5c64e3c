"""Choices of the caller for single layers: which units run on integers and in how many bits; and what was decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...compress.choices import FLOAT32, QUANTIZED, STORED8, check_names, chosen_for, layer_names, word_of
from ...compress.layers.linear import LINEAR
from ...errors import OptionError
from ...ir import Model, Node
from .candidates.assignment import Assignment
from .candidates.calibrated_model import CalibratedModel
from .candidates.units import RECURRENT, Unit, useful
from .options import Quantize
from .place.accuracy_guard import refine

PRODUCTS = frozenset(("MatMul", "Gemm"))
"""Operators whose inputs are quantized while the model runs, or that read stored weights beside those that do."""
INSIDE = " branch: "
"""Stands in the name of a layer in a branch, between the name of the branch and its own."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Units that the caller places on integers, those of them with finer codes than usual, and float units.

    is_complete: every layer with weights is placed; the operators between them then follow their neighbours.
    """

    integers: frozenset[Unit]
    finer: frozenset[Unit]
    floats: frozenset[Unit]
    is_complete: bool

    def completed(self, assignment: Assignment) -> Assignment:
        """An assignment of the placed layers and of the operators that are useful between them."""
        return assignment.with_units(_between(self.integers, assignment.units))

    def applied(self, calibrated: CalibratedModel, assignment: Assignment) -> Assignment:
        """The assignment with the units where they are placed."""
        placed = assignment.with_units((assignment.units - self.floats) | self.integers)
        return refine(calibrated, placed, self.finer)


def chosen_units(calibrated: CalibratedModel) -> Chosen:
    """The units that the options place by name. OptionError for a layer that cannot be what it is to be."""
    options, names = calibrated.options, layer_names(calibrated.model.graph)
    known = (*names.values(), *(origin for node in names for origin in node.origins))
    check_names("quantize", (name for name in options.layers if INSIDE not in name), known)
    choices = chosen_for(names, options.layers)
    integers, finer, floats = set[Unit](), set[Unit](), set[Unit]()
    candidates = _candidates(calibrated)
    for unit in candidates:
        choice = choices.pop(unit.node, None)
        if choice is not None and _mode_of(choice, unit.node, options) == options.mode:
            integers.add(unit)
            is_finer = choice == STORED8 if options.mode == "dynamic" else QUANTIZED[choice][1] == 8
            if is_finer and unit.node in calibrated.finer:
                finer.add(unit)
        elif choice is not None:
            floats.add(unit)
    for node, choice in choices.items():
        if _mode_of(choice, node, options) == options.mode and node.op not in RECURRENT:
            reason = dict(calibrated.units.refused).get(names[node], f"{node.op} has no such form here")
            raise OptionError(f"quantize: layers: {names[node]} cannot be {choice}: {reason}")
    placed = integers | floats
    is_complete = bool(placed) and all(u in placed for u in candidates if u.linear is not None)
    return Chosen(frozenset(integers), frozenset(finer), frozenset(floats), is_complete)


def choices_of(calibrated: CalibratedModel, assignment: Assignment | None) -> dict[str, str]:
    """What was decided, by the names of layers: each with weights, and operators that do not follow their neighbours;
    `Chosen.completed` and `applied` give the same units again."""
    names, order = layer_names(calibrated.model.graph), {n: i for i, n in enumerate(calibrated.model.graph)}
    units = frozenset[Unit]() if assignment is None else assignment.units
    layers = frozenset(u for u in units if u.linear is not None)
    following = _between(layers, calibrated.assignment.units)
    listed = {u for u in _candidates(calibrated) if u.linear is not None} | (following ^ units)
    choices = {}
    for unit in sorted(listed, key=lambda u: order[u.node]):
        codes = None if assignment is None or unit.linear is None else assignment.codes[unit.node]
        word = word_of(calibrated.options.mode, 8 if codes is None else codes.bits)
        word = STORED8 if codes is not None and codes.is_stored else word
        choices[names[unit.node]] = word if unit in units else FLOAT32
    return choices


def _mode_of(choice: str, node: Node | None, options: Quantize) -> str:
    """The mode in which a layer gets what it is to be; "" for floats. Where inputs are quantized while the model runs,
    products that read stored weights are quantized with the others."""
    mode = QUANTIZED.get(choice, ("",))[0]
    is_stored = options.mode == "dynamic" and choice == STORED8 and node is not None and node.op in PRODUCTS
    return options.mode if is_stored else mode


def _candidates(calibrated: CalibratedModel) -> list[Unit]:
    """The units that integers can run; tables that were left float for their harm are among them."""
    units = calibrated.assignment.units
    known = [u for u in calibrated.units.members if u in units or u.node in calibrated.assignment.codes]
    return [*known, *(u for u in units if u not in set(known))]


def _between(layers: frozenset[Unit], units: frozenset[Unit]) -> frozenset[Unit]:
    """The layers, and those of the operators without weights that are useful beside them."""
    return layers | useful(layers | {u for u in units if u.linear is None})


def by_mode(model: Model, options: Quantize) -> list[Quantize]:
    """The options of each mode that a layer of the root graph is to have, those of the usual mode first.

    Beside that, a mode is for the layers alone that are named for it; so is a narrower width of stored weights where
    the usual one is 8 bits and layers are left to decide. OptionError for names that no layer has, and for two widths
    below 8 bits in one mode.
    """
    root = {name: choice for name, choice in options.layers.items() if INSIDE not in name}
    names = layer_names(model.graph)
    nodes = {known: node for node, name in names.items() for known in (*node.origins, name)}
    modes = {name: _mode_of(choice, nodes.get(name), options) for name, choice in root.items()}
    found = []
    for mode in (options.mode, *(m for m in ("static", "dynamic", "weights") if m != options.mode)):
        widths = {QUANTIZED[choice][1] for name, choice in root.items() if modes[name] == mode}
        widths |= {options.weight_bits} if mode == options.mode else set()
        narrow = sorted(bits for bits in widths if bits < 8)
        if len(narrow) > 1:
            raise OptionError(f"quantize: layers: {mode} weights of {narrow[0]} and {narrow[1]} bits in one model")
        if not widths:
            continue
        kind = f"int{narrow[0]}" if narrow else options.weight_type
        if mode == options.mode:
            found += _of_widths(options, kind, names)
            continue
        layers = {name: choice for name, choice in root.items() if modes[name] == mode}
        others = _without(names, layers)
        rounding = options.rounding if mode == "static" else bool(options.rounding)
        activations = options.activation_type if mode == "static" else "uint8"
        found.append(
            replace(
                options, mode=mode, weight_type=kind if narrow else "int8", activation_type=activations,
                rounding=rounding, nodes_to_exclude=(*options.nodes_to_exclude, *others), layers=layers,
            )
        )  # fmt: skip
    return found


def _of_widths(options: Quantize, kind: str, names: Mapping[Node, str]) -> list[Quantize]:
    """The options of the usual mode: twice where stored weights are of 8 bits, of fewer for some layers, and others are
    free, first those of 8 bits."""
    chosen = chosen_for(names, options.layers)
    is_free = any(node.op in LINEAR and node not in chosen for node in names)
    if options.mode != "weights" or kind == options.weight_type or not is_free:
        return [replace(options, weight_type=kind)]
    word = word_of("weights", int(kind[-1]))
    narrow = {name: choice for name, choice in options.layers.items() if choice == word and INSIDE not in name}
    layers = {name: choice for name, choice in options.layers.items() if name not in narrow}
    first = (names[node] for node in chosen_for(names, narrow))
    return [
        replace(options, nodes_to_exclude=(*options.nodes_to_exclude, *first), layers=layers),
        replace(
            options, weight_type=kind, nodes_to_exclude=(*options.nodes_to_exclude, *_without(names, narrow)),
            layers=narrow,
        ),
    ]  # fmt: skip


def _without(names: Mapping[Node, str], layers: Mapping[str, str]) -> list[str]:
    """The names of the nodes for which no choice is made."""
    chosen = chosen_for(names, layers)
    return [name for node, name in names.items() if node not in chosen]


def inside(layers: Mapping[str, str], part: str) -> dict[str, str]:
    """The choices for the layers of a branch, by their names in it; `part` is such as "If_0, then branch"."""
    return {name[len(part) + 2 :]: choice for name, choice in layers.items() if name.startswith(f"{part}: ")}


def outside(layers: Mapping[str, str], part: str) -> dict[str, str]:
    """The choices for the layers of a branch, by their names in the whole."""
    return {f"{part}: {name}": choice for name, choice in layers.items()}

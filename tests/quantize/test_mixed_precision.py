"""Units that harm but hardly gain return to float where accuracy is scarce; those that gain, or hold bytes, stay."""

from dataclasses import replace

import pytest

import graphopt
from graphopt import onnx_io
from graphopt.compress.stages import stage_context
from graphopt.passes.quantize.candidates.calibrated_model import calibrate_model
from graphopt.passes.quantize.errors.single_unit_errors import SingleUnitErrors
from graphopt.passes.quantize.place import accuracy_guard, mixed_precision
from graphopt.passes.quantize.place.min_cut import Costs
from graphopt.passes.quantize.place.mixed_precision import with_mixed_precision
from tests.quantize.nets import convnet, images

FEEDS = images(8)


@pytest.fixture
def calibrated():
    model, options = onnx_io.load(convnet()), graphopt.Quantize(min_sqnr=-100, min_top1=0)
    context = stage_context(model, FEEDS)
    return calibrate_model(model, options, context)


def with_costs(calibrated, monkeypatch, gains, harms):
    """Units that gain so many seconds of one each, and the errors of units that harm so much; conversions are free."""
    units = sorted(calibrated.assignment.units, key=calibrated.assignment.order.__getitem__)
    linear = [unit for unit in units if unit.linear is not None]
    as_codes = {unit: 1.0 - gains.get(linear.index(unit), 0.0) if unit in linear else 1.0 for unit in units}
    free = {value: 0.0 for unit in units for value in (*unit.inputs, *unit.outputs)}
    costs = Costs(dict.fromkeys(units, 1.0), as_codes, free, free)
    monkeypatch.setattr(mixed_precision, "measure_costs", lambda *_: costs)
    return linear, {linear[i]: harm for i, harm in harms.items()}


def test_what_harms_and_hardly_gains_returns_to_float(calibrated, monkeypatch):
    monkeypatch.setattr(mixed_precision, "LARGER", 3.0)
    gains, harms = {0: 0.5, 1: 0.001, 2: 0.5}, {0: 0.01, 1: 0.3, 2: 0.01}
    linear, errors = with_costs(calibrated, monkeypatch, gains, harms)
    found = with_mixed_precision(calibrated, calibrated.assignment, errors)
    assert found is not None and linear[1] not in found.units and {linear[0], linear[2]} <= found.units


def test_what_gains_stays_however_it_harms(calibrated, monkeypatch):
    linear, errors = with_costs(calibrated, monkeypatch, dict.fromkeys(range(5), 0.9), dict.fromkeys(range(5), 0.5))
    monkeypatch.setattr(mixed_precision, "LARGER", 5.0)  # so that bytes hold nothing
    assert len(linear) == 5 and errors
    found = with_mixed_precision(calibrated, calibrated.assignment, errors)
    assert set(linear) <= (calibrated.assignment if found is None else found).units
    linear, errors = with_costs(calibrated, monkeypatch, {0: 0.9}, dict.fromkeys(range(5), 0.5))
    found = with_mixed_precision(calibrated, calibrated.assignment, errors)
    assert found is not None and found.units & set(linear) == {linear[0]}


def test_what_holds_bytes_stays(calibrated, monkeypatch):
    _, errors = with_costs(calibrated, monkeypatch, {0: 0.5, 2: 0.5}, {0: 0.01, 1: 0.3, 2: 0.01})
    found = with_mixed_precision(calibrated, calibrated.assignment, errors)
    assert found is None  # the second layer has half of all weights


def test_nothing_is_done_where_nothing_was_measured(calibrated):
    assert with_mixed_precision(calibrated, calibrated.assignment, {}) is None
    dynamic = replace(calibrated.assignment, options=replace(calibrated.options, mode="dynamic"))
    assert with_mixed_precision(calibrated, dynamic, dict.fromkeys(dynamic.units, 0.1)) is None


def test_no_unit_of_a_large_model_takes_its_own_session(calibrated, monkeypatch):
    monkeypatch.setattr(accuracy_guard, "is_large", lambda _: True)
    monkeypatch.setattr(SingleUnitErrors, "measure", lambda *_: pytest.fail("a session a unit"))
    errors = SingleUnitErrors(calibrated, stage_context(calibrated.model, FEEDS))
    assert accuracy_guard.errors_alone(calibrated.assignment, errors) == {}


def test_a_refit_buys_accuracy_with_more_time(calibrated, monkeypatch):
    units, gained = len(calibrated.assignment.units), 0.03
    linear, errors = with_costs(calibrated, monkeypatch, {3: gained * units, 1: 0.9}, {3: 0.3, 1: 0.01})
    assert with_mixed_precision(calibrated, calibrated.assignment, errors) is None
    refit = replace(calibrated.assignment, options=replace(calibrated.options, rounding="refit"))
    found = with_mixed_precision(calibrated, refit, errors)
    assert found is not None and {*linear} - found.units == {linear[3]}

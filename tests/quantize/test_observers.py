"""Observers and ranges against plain numpy, in any order, in parallel, interrupted and resumed."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt
from graphopt import onnx_io
from graphopt.calibration import METHODS, Extent, Histogram, choose_range, observe
from graphopt.passes.quantize.candidates.derivable_ranges import derivable, derive_ranges, non_negative_images
from graphopt.passes.quantize.candidates.units import find_units
from tests.quantize.nets import convnet, images, parse

CHUNKS = st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), min_size=1, max_size=8)


@given(CHUNKS)
@settings(max_examples=40, deadline=None)
def test_a_histogram_is_that_of_all_values_at_once(chunks):
    """Bins are powers of two wide and joined exactly, so order and grouping leave no trace."""
    arrays = [np.asarray(c, np.float32) for c in chunks]
    streamed, whole, merged = Histogram(), Histogram(), Histogram()
    for array in arrays:
        streamed.add(array)
        part = Histogram()
        part.add(array)
        merged.merge(part)
    joined = np.concatenate(arrays)
    whole.add(joined)
    for seen in (streamed, merged):
        assert seen.low == min(joined.min(), 0) and seen.high == max(joined.max(), 0)
        assert seen.counts.sum() == joined.size and seen.exponent == whole.exponent
        far = np.abs(np.cumsum(seen.counts) - np.cumsum(whole.counts))
        assert far.max(initial=0) <= joined.size  # values on an edge may fall to either side of it
        assert np.abs(seen.centres @ seen.counts - whole.centres @ whole.counts) <= (
            2 * joined.size * 2.0**whole.exponent / 2048
        )


def test_extents_along_an_axis():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, 5, 3, 4)) for _ in range(4)]
    seen = Extent(axis=1)
    for array in arrays:
        seen.add(array)
    whole = np.concatenate(arrays)
    assert np.array_equal(seen.low, np.minimum(whole.min(axis=(0, 2, 3)), 0))
    assert np.array_equal(seen.high, np.maximum(whole.max(axis=(0, 2, 3)), 0))


LEAST = np.finfo(np.float32).min


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, LEAST, LEAST / 2, np.float16(-65504), np.float16(-3e4)])
def test_what_has_no_code_is_counted_and_stretches_nothing(bad):
    array = np.array([-1.0, bad, 2.0], np.asarray(bad).dtype if isinstance(bad, np.float16) else np.float32)
    for kind in (Extent, Histogram):
        seen, whole = kind(), kind()
        seen.add(array)
        seen.add(array[:1])
        whole.merge(seen)
        assert (whole.low, whole.high, whole.masked, whole.seen) == (-1.0, 2.0, 1, 4)
    assert seen.counts.sum() == 3 and np.abs(seen.centres[seen.counts > 0]).max() < 2.1
    along = Extent(axis=1)
    along.add(np.stack([array, np.array([3, 4, 5], array.dtype)]).reshape(1, 2, 3))
    assert along.masked.tolist() == [True, False] and along.high.tolist() == [0.0, 5.0]
    ordinary = Extent()
    ordinary.add(np.float32([-1e9, 3e4, -65504.0]))
    assert not ordinary.masked and ordinary.low == -1e9


def error(values, low, high, levels=256):
    step = (high - low) / (levels - 1)
    return float((((np.clip(np.rint((values - low) / step), 0, levels - 1)) * step + low - values) ** 2).mean())


@pytest.mark.parametrize("draw", ["normal", "laplace", "heavy", "relu"])
def test_the_mse_range_is_nearly_the_best_by_brute_force(draw):
    rng = np.random.default_rng(1)
    values = {
        "normal": rng.standard_normal(20_000), "laplace": rng.laplace(size=20_000),
        "heavy": rng.standard_t(3, 20_000), "relu": np.maximum(rng.laplace(size=20_000), 0),
    }[draw].astype(np.float32)  # fmt: skip
    seen = Histogram()
    seen.add(values)
    found = error(values, *choose_range(seen, "mse"))
    shares = np.linspace(0.2, 1, 60)
    best = min(error(values, a * seen.low, b * seen.high) for a in shares[::3] for b in shares)
    assert found <= 1.1 * best
    assert found <= error(values, *choose_range(seen, "minmax"))


def test_percentiles_are_numpys():
    values = np.random.default_rng(2).standard_normal(60_000).astype(np.float32)
    seen = Histogram()
    seen.add(values)
    low, high = choose_range(seen, "percentile", percentile=99.0)
    assert np.allclose([low, high], np.percentile(values, [0.5, 99.5]), atol=0.02)


def test_entropy_cuts_outliers_and_keeps_what_has_none():
    rng = np.random.default_rng(3)
    even, heavy = Histogram(), Histogram()
    even.add(rng.uniform(-1, 1, 50_000).astype(np.float32))
    heavy.add(np.concatenate([rng.standard_normal(50_000), [60.0, -80.0]]).astype(np.float32))
    assert choose_range(even, "entropy")[1] > 0.9
    assert choose_range(heavy, "entropy")[1] < 30


@pytest.mark.parametrize("method", METHODS)
def test_symmetric_ranges_hold_zero_in_the_middle(method):
    seen = Histogram()
    seen.add(np.random.default_rng(4).standard_normal(5000).astype(np.float32) + 1)
    low, high = choose_range(seen, method, symmetric=True)
    assert low == -high < 0
    flat = Histogram()
    flat.add(np.zeros(10, np.float32))
    assert choose_range(flat, method) == (0.0, 0.0)


def observed(feeds, **options):
    model = onnx_io.load(convnet())
    values = [node.output for node in model.graph]
    return [(e.low, e.high) for e in observe(model, values, feeds, "mse", **options).values()]


def test_parallel_observation_gives_the_same():
    feeds = images(20)
    with ThreadPoolExecutor(2) as pool:
        assert observed(feeds, executor=pool) == observed(feeds)


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_processes_observe_the_same_as_threads_and_as_none(method):
    model, feeds = onnx_io.load(convnet()), images(20)
    values = [model.graph.inputs[0], *(node.output for node in model.graph)]

    def ends(**options):
        found = observe(model, values, iter(feeds), method, **options)
        return [(extent.low, extent.high, extent.seen) for extent in found.values()]

    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes, ThreadPoolExecutor(3) as threads:
        assert ends(executor=processes) == ends(executor=threads) == ends()


def test_a_process_that_dies_is_one_line():
    feeds = [{**feed, "x": Deadly(feed["x"])} for feed in images(3)]
    told = pytest.raises(graphopt.InputError, match=r"\Acalibration: the executor broke down: .*\Z")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool, told:
        observed(feeds, executor=pool)


class Deadly(np.ndarray):
    """An array that ends the process which unpickles it."""

    def __new__(cls, array):
        return np.asarray(array).view(cls)

    def __reduce__(self):
        return os._exit, (3,)


def test_extents_that_follow_need_not_be_read():
    model, feeds = onnx_io.load(convnet()), images(4)
    units = find_units(model, graphopt.Quantize()).members
    values = list(dict.fromkeys(v for u in units for v in (*u.inputs, *u.outputs)))
    known = derivable(units, graphopt.Quantize())
    assert {unit.node.op for unit, _ in known.values()} == {"MaxPool", "Concat", "Flatten"}
    assert not derivable(units, graphopt.Quantize(calibrate_method="mse"))
    whole = observe(model, values, feeds)
    seen = observe(model, [v for v in values if v not in known], feeds)
    derive_ranges(seen, known)
    assert set(seen) == set(whole) == set(values) and len(known) >= 3
    for value in values:
        assert seen[value].seen == whole[value].seen
        assert seen[value].low <= whole[value].low <= whole[value].high <= seen[value].high
        if value not in known or known[value][0].node.op != "MaxPool":  # a pool drops what is least
            assert (seen[value].low, seen[value].high) == (whole[value].low, whole[value].high)


def peaked_net():
    """The model, values that units read or make, and those of which peaks are enough."""
    model = onnx_io.load(convnet())
    units = find_units(model, graphopt.Quantize()).members
    return model, list(dict.fromkeys(v for u in units for v in (*u.inputs, *u.outputs))), non_negative_images(units)


@pytest.mark.parametrize("workers", [None, ThreadPoolExecutor, ProcessPoolExecutor])
def test_peaks_tell_the_extent_of_what_a_clamp_makes(workers):
    model, values, peaks = peaked_net()
    assert {value.name for value in peaks} == {"r1", "r2", "r3"}
    feeds = images(10)
    whole = observe(model, values, feeds)
    context = {"mp_context": multiprocessing.get_context("spawn")} if workers is ProcessPoolExecutor else {}
    with nullcontext() if workers is None else workers(2, **context) as executor:
        seen = observe(model, values, feeds, peaks=peaks, executor=executor)
    assert list(seen) == list(whole)
    for value in values:
        assert (seen[value].low, seen[value].high) == (whole[value].low, whole[value].high)
        assert (seen[value].seen < whole[value].seen) == (value in peaks)


def test_peaks_of_other_batches_are_read_whole():
    net = parse(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,4,8,8] x) => (float[8,3,8,6] y) <float[4,4,1,1] w1, float[6,4,1,1] w2, float[3,2,1,1] w3>
        {
            c1 = Conv(x, w1)
            r1 = Relu(c1)
            c2 = Conv(r1, w2)
            r2 = Relu(c2)
            s = Constant<value_ints=[8,2,8,6]>()
            v = Reshape(r2, s)
            c3 = Conv(v, w3)
            y = Relu(c3)
        }"""
    )
    model = onnx_io.load(net)
    units = find_units(model, graphopt.Quantize()).members
    values = [v for u in units for v in u.outputs]
    peaks = non_negative_images(units)
    assert {value.name for value in peaks} == {"r1", "r2", "y"}
    feeds = [{"x": np.random.default_rng(i).standard_normal((2, 4, 8, 8)).astype(np.float32)} for i in range(3)]
    whole, seen = observe(model, values, feeds), observe(model, values, feeds, peaks=peaks)
    assert len(values) == 4
    assert all((seen[v].low, seen[v].high) == (whole[v].low, whole[v].high) for v in values)
    assert {v.name for v in values if seen[v].seen < whole[v].seen} == {"r1", "r2"}


def test_histograms_read_the_whole():
    model, values, peaks = peaked_net()
    whole, seen = (observe(model, values, images(3), "mse", peaks=p) for p in (frozenset(), peaks))
    for value in values:
        assert np.array_equal(seen[value].counts, whole[value].counts)


def test_infinite_peaks_are_noticed():
    model, values, peaks = peaked_net()
    loud = [{"x": np.full((1, 3, 16, 16), 3e38, np.float32)}]
    seen = observe(model, [v for v in values if v in peaks], [*images(1), *loud], peaks=peaks)
    assert len(seen) == 3 and all(extent.masked and 0 < extent.high < 1e30 for extent in seen.values())


def test_an_interrupted_calibration_resumes(tmp_path):
    cache, feeds, read = tmp_path / "seen", images(10), []

    def failing():
        for i, feed in enumerate(feeds):
            if i == 6:
                raise graphopt.InputError("stop")
            yield feed

    with pytest.raises(graphopt.InputError):
        observed(failing(), cache=cache)

    def counted():
        for feed in feeds:
            read.append(1)
            yield feed

    progress = []
    assert observed(counted(), cache=cache, progress=progress.append) == observed(feeds)
    assert progress[0] == 7  # six were known already
    cache.write_bytes(b"damaged")
    assert observed(feeds, cache=cache) == observed(feeds)


def test_a_cache_of_other_samples_is_of_no_use(tmp_path):
    cache, feeds, others = tmp_path / "seen", images(10), images(10, seed=1)
    observed(feeds, cache=cache)
    with pytest.raises(graphopt.InputError, match="saw other samples, and these can be read only once"):
        observed(iter(others), cache=cache)
    for data in (feeds[:4], others, [*others[:4], *feeds]):
        assert observed(data, cache=cache) == observed(data)
        assert observed(iter(data), cache=cache) == observed(data)


def test_a_cache_that_cannot_be_written_is_told_in_one_line(tmp_path):
    with pytest.raises(graphopt.GraphoptError, match=f"the cache {tmp_path} cannot be written: "):
        observed(images(2), cache=tmp_path)
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*"))

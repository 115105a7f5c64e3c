"""The table of measurements: kept by machine and facts, never wrong because a file is."""

import json
import threading

import pytest

from graphopt.machine import measurements
from graphopt.machine.measurements import Measurements


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_numbers_are_kept_beside_older_ones(cache):
    table = Measurements("units")
    assert table.load() == {}
    assert table.add({"a": (1.0, 2.0), "b": (3.0, 4.0)})
    assert table.add({"b": (5.0, 6.0)})
    assert Measurements("units").load() == {"a": (1.0, 2.0), "b": (5.0, 6.0)}
    assert len(list((cache / "measurements" / "units").iterdir())) == 1  # nothing is left beside the table


def test_each_kind_and_each_fact_has_a_table_of_its_own(monkeypatch):
    keys = (("units", ()), ("regions", ()), ("units", ("avx2",)), ("units", ("avx2", "1")))
    tables = [Measurements(kind, facts) for kind, facts in keys]
    for number, table in enumerate(tables):
        assert table.add({"a": (float(number), 0.0)})
    assert [table.load()["a"][0] for table in tables] == [0.0, 1.0, 2.0, 3.0]
    monkeypatch.setattr(measurements, "host_cpu", lambda: ("another", frozenset()))
    assert tables[0].load() == {}


def test_another_onnxruntime_has_another_table(monkeypatch):
    table = Measurements("units")
    table.add({"a": (1.0, 2.0)})
    monkeypatch.setattr(measurements, "_onnxruntime", lambda: "0.0")
    assert table.load() == {}


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"a": 1}', '{"a": [1]}', '{"a": ["x", "y"]}', "\x00"])
def test_a_corrupt_file_is_as_none_and_is_replaced(text):
    table = Measurements("units")
    table.add({"a": (1.0, 2.0)})
    table._path.write_text(text)
    assert table.load() == {}
    assert table.add({"b": (3.0, 4.0)})
    assert table.load() == {"b": (3.0, 4.0)}


def test_a_cache_that_cannot_be_written(cache):
    cache.write_text("a file where the folder should be")
    table = Measurements("units")
    assert not table.add({"a": (1.0, 2.0)})
    assert table.load() == {}


def test_threads_lose_nothing():
    table = Measurements("units")
    start = threading.Barrier(8)

    def add(number):
        start.wait()
        assert table.add({str(number): (float(number), 0.0)})

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert table.load() == {str(number): (float(number), 0.0) for number in range(8)}


def test_a_table_is_parsed_once_and_again_when_its_file_changes(monkeypatch):
    table, parsed, loads = Measurements("units"), [], json.loads
    monkeypatch.setattr(measurements.json, "loads", lambda text: parsed.append(text) or loads(text))
    table.add({"a": (1.0, 2.0)})
    table.load()["b"] = (0.0, 0.0)  # the caller's own
    assert [table.load(), Measurements("units").load()] == [{"a": (1.0, 2.0)}] * 2
    assert len(parsed) == 1
    other = json.dumps({"a": [3.0, 4.0]})
    table._path.write_text(f"{other} ")  # by another process
    assert table.load() == {"a": (3.0, 4.0)}
    table._path.unlink()
    assert table.load() == {}

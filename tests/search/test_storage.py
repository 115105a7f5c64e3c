"""The folder of a search: lines that survive a kill, and folders of other searches."""

from pathlib import Path

import pytest

from graphopt.errors import OptionError, OutputError
from graphopt.searching.storage import Store

HEADER = {"version": 1, "model": "abc", "seed": 0}


def test_records_come_back(tmp_path):
    store = Store.open(tmp_path / "a" / "b", HEADER)
    store.add("trial", {"number": 1})
    store.add("table", {"x": [1, 2]})
    again = Store.open(tmp_path / "a" / "b", HEADER)
    assert again.of("trial") == [{"kind": "trial", "number": 1}] and len(again.records) == 2


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path):
    store = Store.open(tmp_path, HEADER)
    store.add("trial", {"number": 1})
    with open(store.path, "ab") as file:
        file.write(b'{"kind":"trial","num')
    again = Store.open(tmp_path, HEADER)
    again.add("trial", {"number": 2})
    assert [record["number"] for record in Store.open(tmp_path, HEADER).of("trial")] == [1, 2]


def test_another_search_is_not_mixed_in(tmp_path):
    Store.open(tmp_path, HEADER)
    with pytest.raises(OptionError, match="differs in seed"):
        Store.open(tmp_path, {**HEADER, "seed": 1})


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        Store.open(tmp_path / "file" / "below", HEADER)


def test_a_folder_of_its_own_goes_with_the_store():
    store = Store.open(None, HEADER)
    path = store.write_model("trial-1", b"onnx")
    assert Path(path).read_bytes() == b"onnx"

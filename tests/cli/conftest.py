"""The small model that the command line is given."""

import onnx
import pytest

from tests.test_cli import small


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(small(), path)
    return path

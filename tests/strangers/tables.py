"""Models on tabular data, trained by scikit-learn on its own data sets and converted by skl2onnx."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def _writer(make: Callable[[], Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        from skl2onnx import to_onnx
        from sklearn.datasets import load_breast_cancer

        x, y = load_breast_cancer(return_X_y=True)
        x = x.astype(np.float32)
        fitted = make().fit(x, y)
        path.write_bytes(to_onnx(fitted, x[:1], options={"zipmap": False}).SerializeToString())
        np.savez(path.with_suffix(".npz"), X=x[:8])

    return write


def _forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(20, random_state=0)


def _boosting() -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(n_estimators=20, random_state=0)


def _pipeline() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression())


def _perceptron() -> Any:
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), MLPClassifier((64, 32), random_state=0, max_iter=50))


TABLES: dict[str, Callable[[Path], None]] = {
    "forest": _writer(_forest), "boosting": _writer(_boosting), "pipeline": _writer(_pipeline),
    "perceptron": _writer(_perceptron),
}  # fmt: skip
"""By name; each writes a file and its example inputs."""

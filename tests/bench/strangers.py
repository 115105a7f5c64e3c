"""Files that nobody looked at: `python -m tests.bench.strangers FOLDER [--modes MODE …] [--match TEXT] [--seconds S]`.

FOLDER holds what `python -m tests.strangers FOLDER` exports, and whatever else lies there with its inputs beside it as
.npz. A row a file and form: how the exact passes were validated, the share of multiply-accumulates on integers,
onnxruntime's speed on the form over its speed on the original, and the Session's over onnxruntime's on the same file,
before and after `warmup`. Forms: `exact`, our `static`, `dynamic` and `weights`, and what onnxruntime.quantization
writes (`ort-dynamic`, `ort-qdq`, `ort-qdq-raw` without preprocessing, `ort-qop`). One thread; seconds of that thread,
interleaved. Each file is measured in a process of its own, and one that ends it is a row, too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import graphopt
from graphopt.measure import geometric_mean, ort_session
from tests.bench import session_ratio
from tests.bench.session_ratio import clear_ratio, is_convolutional

OURS = ("static", "dynamic", "weights")
FORMS = ("exact", *OURS, "ort-dynamic", "ort-qdq", "ort-qdq-raw", "ort-qop")
SAMPLES = 4
SLOWER = 0.97
"""The Session counts as slower than onnxruntime below this ratio."""

Row = dict[str, Any]
Feed = dict[str, np.ndarray]


def samples(path: Path) -> list[Feed]:
    """The example inputs, and variations of what is floating."""
    rng = np.random.default_rng(0)
    given = dict(np.load(path.with_suffix(".npz")))
    return [
        {k: v + 0.3 * n * rng.standard_normal(v.shape).astype(v.dtype) if v.dtype.kind == "f" else v
         for k, v in given.items()}
        for n in range(SAMPLES)
    ]  # fmt: skip


class _Reader:
    """Samples as onnxruntime's quantizer reads them."""

    def __init__(self, feeds: list[Feed]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self.feeds, None)


def _by_onnxruntime(form: str, path: Path, feeds: list[Feed], folder: Path) -> bytes:
    from onnxruntime.quantization import QuantFormat, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, target = str(path), str(folder / f"{form}.onnx")
    if form in ("ort-qdq", "ort-qop", "ort-dynamic"):
        prepared = str(folder / "prepared.onnx")
        try:
            quant_pre_process(source, prepared)
            source = prepared
        except Exception:  # symbolic shape inference gives up on some models, which are quantized as they are
            pass
    if form == "ort-dynamic":
        quantize_dynamic(source, target)
    else:
        kind = QuantFormat.QOperator if form == "ort-qop" else QuantFormat.QDQ
        quantize_static(source, target, _Reader(feeds), quant_format=kind)
    return Path(target).read_bytes()


def _ours(form: str, path: Path, feeds: list[Feed], row: Row) -> bytes:
    options: dict[str, Any] = {} if form == "exact" else {"quantize": form, "calibration": feeds}
    result = graphopt.optimize(str(path), **options)
    report = result.report
    row.update(status=report.status, nodes=f"{report.before.nodes}>{report.after.nodes}")
    if report.status not in ("equal", "lossy") or report.rolled_back:
        row["why"] = report.rolled_back[0].reason[:80] if report.rolled_back else report.reason[:80]
    for stage in report.stages:
        row["macs"] = (stage.figures or {}).get("share_of_macs")
        if not stage.changed:
            row["why"] = stage.summary[:80]
    return result.model.SerializeToString()


def _ratio(candidates: dict[str, Any], feed: Feed, seconds: float) -> float:
    """How many times as fast the second is as the first."""
    return clear_ratio(candidates, feed, seconds)[0]


def measure(path: Path, form: str, seconds: float) -> Row:
    """One row."""
    feeds, row = samples(path), Row(file=path.stem, form=form)
    start = time.perf_counter()
    path = path.absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # onnxruntime's tools leave files where they run
        if form.startswith("ort"):
            made = _by_onnxruntime(form, path, feeds, Path(folder))
        else:
            made = _ours(form, path, feeds, row)
        os.chdir(path.parent)
    row["seconds"] = time.perf_counter() - start
    stock = ort_session(made)
    row["gain"] = _ratio({"float": ort_session(str(path)), form: stock}, feeds[0], seconds)
    session = graphopt.Session(made, 1)
    row["session"] = _ratio({"stock": stock, "session": session}, feeds[0], seconds)
    row["regions"], row["convolutional"] = len(session.regions), is_convolutional(path)
    if session.regions or form != "exact":
        from graphopt.runtime.warmup import warmup

        warmup(made, feeds[0], threads=1)
        row["warm"] = _ratio({"stock": stock, "session": graphopt.Session(made, 1)}, feeds[0], seconds)
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return row


def rows(paths: list[Path], forms: list[str], seconds: float, limit: float) -> Iterator[Row]:
    """Every file in every form, each in a process of its own."""
    for path in paths:
        for form in forms:
            command = [
                sys.executable,
                "-m",
                "tests.bench.strangers",
                "--one",
                form,
                "--seconds",
                str(seconds),
                str(path),
            ]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
            except subprocess.TimeoutExpired:
                yield Row(file=path.stem, form=form, why=f"not done in {limit:g} s")
                continue
            lines = done.stdout.strip().splitlines()
            if done.returncode == 0 and lines:
                yield json.loads(lines[-1])
            else:
                errors = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
                yield Row(file=path.stem, form=form, why=errors[-1][:110])


def show(row: Row) -> str:
    """A row as text."""
    figures = " ".join(
        f"{row[key]:6.2f}" if isinstance(row.get(key), float) else f"{'':6}"
        for key in ("macs", "gain", "session", "warm")
    )
    took = f"{row['seconds']:6.1f}s {row['peak_mb']:5d}MB" if "seconds" in row and "peak_mb" in row else f"{'':14}"
    return f"{row['file']:28} {row['form']:12} {row.get('status', ''):10} {figures} {took} {row.get('why', '')}"


def summary(found: list[Row]) -> Iterator[str]:
    """What the rows come to, form by form."""
    for form in dict.fromkeys(row["form"] for row in found):
        mine = [row for row in found if row["form"] == form]
        failed = [row for row in mine if "gain" not in row]
        yield f"{form}: {len(mine)} files, {len(failed)} not measured"
        for key, what in (
            ("gain", "over the original"),
            ("session", "Session over onnxruntime"),
            ("warm", "the same, warm"),
        ):
            ratios = {row["file"]: row[key] for row in mine if key in row}
            if ratios:
                worst = min(ratios, key=ratios.__getitem__)
                below = sum(ratio < SLOWER for ratio in ratios.values())
                mean = geometric_mean(list(ratios.values()))
                yield f"  {what}: mean {mean:.2f}, worst {ratios[worst]:.2f} ({worst}), {below} below {SLOWER}"
    yield from session_ratio.summary(found)


def main() -> None:
    """Print a row as soon as it is known, then the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--modes", nargs="*", choices=FORMS, default=list(FORMS))
    parser.add_argument("--match", default="", help="only files whose name holds this text")
    parser.add_argument("--seconds", type=float, default=0.3, help="time for each session")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds that a row may take")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.one:
        print(json.dumps(measure(arguments.folder, arguments.one, arguments.seconds)))
        return
    paths = sorted(p for p in arguments.folder.glob("*.onnx") if arguments.match in p.name)
    found = []
    for row in rows(
        [p for p in paths if p.with_suffix(".npz").exists()], arguments.modes, arguments.seconds, arguments.limit
    ):
        found.append(row)
        print(show(row), flush=True)
    print("\n".join(summary(found)))


if __name__ == "__main__":
    main()

"""Files unseen in development: `python -m tests.bench.strangers [FOLDER] [--modes MODE …] [--only NAME …] [--rows F]`.

FOLDER is first filled by `python -m tests.strangers FOLDER`, with at least `FILES` files of `KINDS` architectures (by
this interpreter, or by `--exporter`, an interpreter with torch); any other model there with its inputs beside it as
.npz is measured, too. One row per file and form: the validation of the exact passes, their seconds and their MB beyond
the model, the share of multiply-accumulates on integers, onnxruntime's speed on the form over its speed on the
original, and the Session's over onnxruntime's on the same file, before and after `warmup`. Forms: `exact`, our
`static`, `dynamic` and `weights`, `prune`, each also for target onnxruntime (`-ort`), and the files of
onnxruntime.quantization: the six settings of `tests.bench.ort_int8`, and `ort-raw` without preprocessing. One thread;
seconds of that thread, interleaved. Each file is measured in its own process, and a file that crashes the process is a
row, too. The summary names rows that break a bar; the exit code is 1 if there are any.

A row takes 6 to 40 s while a machine of two cores does other work, so that a full run, 142 files in 17 forms, is some
15 hours of one core: `--rows` saves rows and resumes after those already saved; `--draw N` takes only N files, sampled
by a seed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import graphopt
from graphopt.measure import geometric_mean, ort_session
from graphopt.runtime.cache.manifest import COMPUTED
from graphopt.runtime.place.lowered_model import Kernels
from tests.bench import ort_int8, session_ratio
from tests.bench.ort_int8 import SETTINGS
from tests.bench.session_ratio import clear_ratio, is_convolutional, warmed

QUANTIZED = ("static", "dynamic", "weights")
OURS = ("exact", *QUANTIZED, "prune")
THEIRS = tuple(f"ort-{setting}" for setting in (*SETTINGS, "raw"))
FORMS = (*(f"{form}{suffix}" for suffix in ("", "-ort") for form in OURS), *THEIRS)
"""`-ort` behind one of ours: for target "onnxruntime"."""
SAMPLES = 4
FILES, KINDS = 60, 25
"""Files and architectures below which the corpus says too little of files that nobody looked at."""
SLOWER = 0.97
"""A file counts as slower below this ratio."""
PROOF_SECONDS, PROOF_MB = 30.0, 1024
"""What a proof may take, the memory beyond the model."""
PRUNED = 0.3
"""The share of channels that `prune` removes: far enough for every kind of layer to lose some."""

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


def _by_onnxruntime(form: str, path: Path, feeds: list[Feed], folder: Path) -> bytes:
    """The file of one of onnxruntime's settings; `ort-raw` is its static default without preparation."""
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, target, setting = str(path), folder / f"{form}.onnx", form.removeprefix("ort-")
    if setting == "raw":
        quantize_static(source, str(target), ort_int8.Reader(feeds))
        return target.read_bytes()
    prepared = str(folder / "prepared.onnx")
    try:
        quant_pre_process(source, prepared)
        source = prepared
    except Exception:  # symbolic shape inference gives up on some models, which are quantized as they are
        pass
    ort_int8.quantize(Path(source), target, setting, feeds)
    return target.read_bytes()


def _peak_mb() -> int:
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def _ours(form: str, path: Path, feeds: list[Feed], row: Row) -> bytes:
    kind, is_stock = form.removesuffix("-ort"), form.endswith("-ort")
    options: dict[str, Any] = {"target": "onnxruntime" if is_stock else "portable"}
    if kind in QUANTIZED:
        options.update(quantize=kind, calibration=feeds)
    elif kind == "prune":
        options.update(prune=PRUNED, calibration=feeds)
    before = _peak_mb()
    result = graphopt.optimize(str(path), **options)
    report = result.report
    row["beyond_mb"] = _peak_mb() - before - (path.stat().st_size >> 20)
    row.update(status=report.status, nodes=f"{report.before.nodes}>{report.after.nodes}")
    if report.comparison is not None:
        row["proof"] = report.comparison.seconds
    if report.status not in ("equal", "lossy") or report.rolled_back:
        row["why"] = report.rolled_back[0].reason[:80] if report.rolled_back else report.reason[:80]
    for stage in report.stages:
        row["macs"] = (stage.figures or {}).get("share_of_macs")
        if not stage.changed:
            row["why"] = stage.summary[:80]
    return result.model.SerializeToString()


def _compare(row: Row, key: str, opened: Callable[[], dict[str, Any]], feed: Feed, seconds: float) -> Any:
    """How many times as fast the second candidate is as the first; a loss is measured again until it is clear."""
    candidates = opened()
    row[key] = clear_ratio(candidates, feed, seconds, opened)[0]
    return list(candidates.values())[1]


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
    row["seconds"], row["peak_mb"] = time.perf_counter() - start, _peak_mb()

    def both(kernels: Kernels = "predicted") -> dict[str, Any]:
        return {"stock": ort_session(made), "session": graphopt.Session(made, 1, kernels=kernels)}

    _compare(row, "gain", lambda: {"float": ort_session(str(path)), form: ort_session(made)}, feeds[0], seconds)
    session = _compare(row, "session", both, feeds[0], seconds)
    row["regions"], row["convolutional"] = len(session.regions), is_convolutional(path)
    row["computed"] = COMPUTED in session.describe().verdict
    if session.regions or form != "exact":
        row.update(warmed(made, partial(both, None), feeds[0], seconds))
    return row


def rows(asked: list[tuple[Path, str]], seconds: float, limit: float) -> Iterator[Row]:
    """Files, each in a form and in a process of its own."""
    for path, form in asked:
        options = ["--one", form, "--seconds", str(seconds), str(path)]
        command = [sys.executable, "-m", "tests.bench.strangers", *options]
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
    took = f"{row['seconds']:6.1f}s {row.get('beyond_mb', row['peak_mb']):5d}MB" if "seconds" in row else f"{'':14}"
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


def broken(found: list[Row]) -> Iterator[str]:
    """What breaks a bar: a line for each row and bar."""
    best: dict[str, float] = {}
    for row in found:
        if row["form"] in THEIRS and "gain" in row:
            best[row["file"]] = max(best.get(row["file"], 0.0), row["gain"])
    for row in found:
        told = f"{row['file']} {row['form']}"
        if row["form"] in THEIRS:
            continue
        if "status" not in row:
            yield f"{told}: raised: {row.get('why', '')}"
        elif row["status"] == "unverified":
            yield f"{told}: unverified: {row.get('why', '')}"
        if row.get("proof", 0.0) > PROOF_SECONDS:
            yield f"{told}: the proof took {row['proof']:.0f} s"
        if row["form"].startswith("exact") and row.get("beyond_mb", 0) > PROOF_MB:
            yield f"{told}: {row['beyond_mb']} MB beyond the model"
        if "gain" in row and not row["form"].startswith("weights"):
            least = 1.0 if row["form"].startswith(("static", "dynamic")) else SLOWER
            if row["gain"] < least:
                yield f"{told}: {row['gain']:.2f} of the original's speed"
            if row["form"] in ("static-ort", "dynamic-ort") and row["gain"] < best.get(row["file"], 0.0):
                yield f"{told}: {row['gain']:.2f}, the best of onnxruntime's own {best[row['file']]:.2f}"
        for key in ("session", "warm"):
            if row.get(key, SLOWER) < SLOWER:
                yield f"{told}: {row[key]:.2f} of onnxruntime in the Session{', warm' * (key == 'warm')}"


def filled(folder: Path, exporter: str, only: list[str], match: str = "") -> list[Path]:
    """The files of the folder that have inputs, after what is missing of the corpus was exported, all or some names."""
    root = Path(__file__).parents[2]
    command = [exporter, "-m", "tests.strangers", str(folder.absolute()), *(["--only", *only] if only else [])]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        print(f"nothing was exported: {told} (--exporter names a Python that has torch and transformers)")
    paths = [p for p in sorted(folder.glob("*.onnx")) if p.with_suffix(".npz").exists()]
    kinds = {path.stem.partition("-")[0] for path in paths}
    few = "" if len(paths) >= FILES and len(kinds) >= KINDS else f", fewer than {FILES} of {KINDS}"
    print(f"{len(paths)} files of {len(kinds)} architectures{few}", flush=True)
    return [path for path in paths if match in path.name and (not only or path.stem.partition("-")[0] in only)]


def main() -> None:
    """Print a row as soon as it is known, then the summary, then what breaks a bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="a temporary one unless given")
    parser.add_argument("--modes", nargs="*", choices=FORMS, default=list(FORMS))
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="only these architectures")
    parser.add_argument("--match", default="", help="only files whose name holds this text")
    parser.add_argument("--draw", type=int, metavar="N", help="only N files of these, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.3, help="time for each session")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds that a row may take")
    parser.add_argument("--exporter", default=sys.executable, help="the Python that exports: it has torch")
    parser.add_argument("--rows", type=Path, help="where rows are kept: what they measured is not measured again")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.one:
        print(json.dumps(measure(arguments.folder, arguments.one, arguments.seconds)))
        return
    kept = arguments.rows.read_text().splitlines() if arguments.rows and arguments.rows.exists() else []
    found: list[Row] = [row for row in map(json.loads, kept) if "gain" in row]
    with tempfile.TemporaryDirectory() as temporary:
        paths = filled(arguments.folder or Path(temporary), arguments.exporter, arguments.only, arguments.match)
        if arguments.draw is not None and arguments.draw < len(paths):
            paths = sorted(random.Random(arguments.seed).sample(paths, arguments.draw))
        known = {(row["file"], row["form"]) for row in found}
        asked = [(path, form) for path in paths for form in arguments.modes if (path.stem, form) not in known]
        for row in rows(asked, arguments.seconds, arguments.limit):
            found.append(row)
            print(show(row), flush=True)
            if arguments.rows:
                with arguments.rows.open("a") as file:
                    print(json.dumps(row), file=file)
    faults = list(broken(found))
    print("\n".join((*summary(found), *faults)))
    if faults or not found:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

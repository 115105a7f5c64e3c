"""Quantize within a limit on accuracy, and run the result on int8 kernels: `python examples/quantize.py [FOLDER]`."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import graphopt  # noqa: E402
from models import fashion  # noqa: E402


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
    result = graphopt.optimize(
        ROOT / "models" / "fashion_cnn.onnx",
        folder / "fashion.int8.onnx",
        quantize=graphopt.Quantize(mode="static", speed=False),
        calibration=ROOT / "models" / "fashion_calibration.npz",
        metric=fashion.accuracy,
        max_drop=0.005,
    )
    print(result.report)
    result.report.save(folder / "fashion.int8.html", "fashion_cnn, int8", seconds=0.2)
    session = result.session()
    print(f"accuracy on test images that nothing was chosen by: {fashion.test_accuracy(session):.2%}")


if __name__ == "__main__":
    main()

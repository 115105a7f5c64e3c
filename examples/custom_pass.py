"""A rule and a whole-graph pass of one's own, held to equality: `python examples/custom_pass.py`."""

import numpy as np
import onnx

import graphopt
from graphopt.rewrite import any_value, constant, op

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
halves (float[N,4] x) => (float[N,4] y) <float half = {0.5}> {
  a = Mul(x, half)
  b = Mul(a, half)
  c = Dropout(b)
  y = Relu(c)
}"""


def main() -> None:
    with graphopt.Registry():

        @graphopt.rule(op.Mul(op.Mul(any_value("x"), constant("a")), constant("b")))
        def join_factors(build, x, a, b):
            """(x a) b = x (a b)"""
            return build.Mul(x, np.asarray(a * b, a.dtype))

        @graphopt.register_pass("count-relus")
        def count_relus(graph):
            """Looks, and changes nothing."""
            print("relus:", sum(node.op == "Relu" for node in graph.walk()))
            return 0

        result = graphopt.optimize(onnx.parser.parse_model(TEXT))
    print(result.ir)
    print(result.report.status, result.report.reason)


if __name__ == "__main__":
    main()

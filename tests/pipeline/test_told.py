"""What an author of a pass gets wrong is told: the operator, the place, the missing number."""

import pytest

import graphopt
from graphopt.errors import OptionError
from graphopt.rewrite import any_value, op
from graphopt.rewrite import rule as bare_rule
from tests.test_optimize import conv_bn_model


def rolled_back(**options):
    (item,) = graphopt.optimize(conv_bn_model(), validate=False, **options).report.rolled_back
    return item


def test_a_misspelt_operator_of_a_pattern_names_the_nearest():
    with graphopt.Registry(), pytest.raises(OptionError, match=r"no operator Convv \(did you mean Conv\?\)"):

        @graphopt.rule(op.Relu(op("Conv", "Convv")(any_value("x"), any_value("w"))))
        def never(build, x, w):
            return x

    made = bare_rule(op.Rellu(any_value("x")))(lambda build, x: x)
    with pytest.raises(OptionError, match="did you mean Relu"):
        graphopt.optimize(conv_bn_model(), passes=[made])


def test_operators_of_other_domains_and_versions_are_taken():
    for pattern in (op["my.own::Thing"](any_value("x")), op.Upsample(any_value("x")), op.Swish(any_value("x"))):
        with graphopt.Registry():
            graphopt.rule(pattern, name="fits")(lambda build, x: x)


def test_a_misspelt_operator_of_a_builder_names_the_nearest():
    made = bare_rule(op.Relu(any_value("x")), name="wrong")(lambda build, x: build.Sigmiod(x))
    item = rolled_back(passes=[made])
    assert "no operator Sigmiod (did you mean Sigmoid?)" in item.reason


def test_what_raises_is_named_with_file_and_line():
    def hasty(graph):
        return next(iter(graph)).inputs[9].name

    with graphopt.Registry():
        graphopt.register_pass("hasty")(hasty)
        item = rolled_back()
    assert item.what == "hasty"
    line = hasty.__code__.co_firstlineno + 1
    assert f"pass 'hasty' failed at test_told.py:{line}: IndexError" in item.reason


def test_a_handler_that_raises_is_named_with_its_own_line():
    def careless(build, x):
        return x.type.shape[9]

    item = rolled_back(passes=[bare_rule(op.Relu(any_value("x")))(careless)])
    assert f"at test_told.py:{careless.__code__.co_firstlineno + 1}: IndexError" in item.reason


def test_edits_without_a_number_are_told():
    with graphopt.Registry():

        @graphopt.register_pass("silent")
        def silent(graph):
            for node in graph:
                if node.op == "Relu":
                    graph.replace_uses(node.output, node.inputs[0])

        item = rolled_back()
    assert item.what == "silent" and "returned None" in item.reason and "number of changes" in item.reason


def test_looking_and_returning_none_is_fine():
    with graphopt.Registry():

        @graphopt.register_pass("looker")
        def looker(graph):
            assert len(graph) > 0

        assert graphopt.optimize(conv_bn_model(), validate=False).report.rolled_back == ()


def test_a_rule_that_forgets_its_value_says_so_in_the_trace():
    from graphopt.report.tracing import trace_rule

    with graphopt.Registry():

        @graphopt.rule(op.Relu(any_value("x")))
        def forgetful(build, x):
            build.Abs(x)

        found = trace_rule(conv_bn_model(), "forgetful")
    assert found.misses and all("returned None" in miss.reason for miss in found.misses)
    wrong = bare_rule(op.Relu(any_value("x")), name="number")(lambda build, x: [3])
    assert "rule number returned int" in rolled_back(passes=[wrong]).reason

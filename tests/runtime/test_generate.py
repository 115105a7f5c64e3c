"""`Session.generate`: the tokens of onnxruntime's own loop, batches, ends, drawing, and errors in one line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt.errors import InputError, ModelError, OptionError
from graphopt.runtime.generate.choice import Choice
from graphopt.runtime.generate.decoder import Decoder, Tensor
from graphopt.runtime.generate.loop import generated
from tests.runtime.decoders import WORDS, greedy, make_decoder

PROMPT = [5, 11, 2, 60]


@pytest.fixture(scope="module")
def decoder() -> onnx.ModelProto:
    return make_decoder(positions=300)


@pytest.fixture(scope="module")
def session(decoder: onnx.ModelProto) -> graphopt.Session:
    return graphopt.Session(decoder.SerializeToString(), threads=1)


@pytest.mark.parametrize("kernels", [None, True])
def test_two_hundred_tokens_are_those_of_onnxruntime(decoder: onnx.ModelProto, kernels: bool | None) -> None:
    expected = greedy(decoder, PROMPT, 200)
    assert len(set(expected)) > 5  # the model does not repeat one token
    session = graphopt.Session(decoder.SerializeToString(), threads=1, kernels=kernels)
    written = session.generate(PROMPT, 200)
    assert written.dtype == np.int64
    assert written.tolist() == expected


@pytest.mark.parametrize(
    "length, sizes", [(1, [1]), (3, [1, 1, 1]), (4, [4]), (5, [4, 1]), (128, [128]), (250, [128, 64, 32, 16, 8, 1, 1])]
)
def test_a_prompt_is_read_in_the_fewest_pieces(length: int, sizes: list[int]) -> None:
    read = list[int]()

    def run(names: object, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        read.append(feeds["tokens"].size)
        return [np.zeros((1, feeds["tokens"].size, 3), np.float32)]

    decoder = Decoder(Tensor("tokens", np.dtype(np.int64), 2), None, None, (), "logits", None)
    tokens = np.arange(length)[None]
    list(generated(run, decoder, tokens, np.ones_like(tokens), 3, (), Choice(), in_pieces=True))
    assert read == [*sizes, 1, 1]


def test_a_quantized_decoder_runs_in_parts(decoder: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> None:
    from onnxruntime.quantization import quantize_dynamic

    folder = tmp_path_factory.mktemp("decoder")
    onnx.save(decoder, folder / "float.onnx")
    quantize_dynamic(folder / "float.onnx", folder / "int8.onnx")
    quantized = onnx.load(folder / "int8.onnx")
    session = graphopt.Session(str(folder / "int8.onnx"), threads=1, kernels=True)
    assert session.regions
    assert session.generate(PROMPT, 30).tolist() == greedy(quantized, PROMPT, 30)


def test_tokens_come_one_by_one(session: graphopt.Session) -> None:
    tokens = session.tokens(PROMPT, 12)
    first = next(tokens)
    assert isinstance(first, int)
    assert [*PROMPT, first, *tokens] == session.generate(PROMPT, 12).tolist()


def test_an_end_stops(session: graphopt.Session) -> None:
    whole = session.generate(PROMPT, 40).tolist()[len(PROMPT) :]
    end = next(token for token in whole if whole.index(token) > 2)
    assert session.generate(PROMPT, 40, eos_token_id=end).tolist() == [*PROMPT, *whole[: whole.index(end) + 1]]
    assert list(session.tokens(PROMPT, 40, eos_token_id=[end, WORDS])) == whole[: whole.index(end) + 1]


def test_padded_batches_write_what_each_row_does_alone(session: graphopt.Session) -> None:
    short = [7, 9]
    rows = np.array([PROMPT, [0, 0, *short]])
    written = session.generate(rows, 20, attention_mask=[[1, 1, 1, 1], [0, 0, 1, 1]])
    assert written.shape == (2, 24)
    assert written[0].tolist() == session.generate(PROMPT, 20).tolist()
    assert written[1, 2:].tolist() == session.generate(short, 20).tolist()
    ends = session.generate(rows, 20, attention_mask=[[1, 1, 1, 1], [0, 0, 1, 1]], eos_token_id=int(written[1, 5]))
    at = written[1, 4:].tolist().index(int(written[1, 5]))
    assert (ends[1, 4 + at :] == written[1, 5]).all()  # a row that ended repeats its end


def test_a_long_cache_works() -> None:
    model = make_decoder(positions=2100)
    session = graphopt.Session(model.SerializeToString(), threads=1)
    prompt = np.random.default_rng(0).integers(0, WORDS, 2000)
    assert session.generate(prompt, 5).tolist() == greedy(model, prompt.tolist(), 5)


@pytest.mark.parametrize("names", [("past_key_0_{}", "present_key_0_{}"), ("past.0.{}", "present.0.{}")])
def test_other_names(names: tuple[str, str]) -> None:
    model = make_decoder(names=names)
    session = graphopt.Session(model.SerializeToString(), threads=1)
    assert session.generate(PROMPT, 20).tolist() == greedy(model, PROMPT, 20)


@pytest.mark.parametrize("shift", [0, 2])
def test_a_prompt_that_is_too_long_is_one_line(shift: int) -> None:
    session = graphopt.Session(make_decoder(positions=20, shift=shift).SerializeToString(), threads=1)
    room = 20 - shift
    assert len(session.generate([1] * 10, room - 9)) == room + 1  # the last token is not fed
    text = f"a prompt of 10 tokens with {room - 8} new ones is too long: the model has positions for {room}"
    with pytest.raises(InputError, match=re.escape(text)):
        session.generate([1] * 10, room - 8)
    with pytest.raises(InputError, match="too long"):
        session.tokens([1] * 10, room - 8)  # before the first token is asked for


def test_other_models_are_told_what_they_lack() -> None:
    def without(*names: str) -> onnx.ModelProto:
        model = make_decoder()
        for one in list(model.graph.output):
            if one.name in names:
                model.graph.output.remove(one)
        return model

    cases = {
        "no input input_ids": onnx.load("models/fashion_cnn.onnx"),
        "no inputs past_key_values": without("present.0.key", "present.0.value"),
        "no output logits among present": without("logits"),
    }
    extra = make_decoder()
    extra.graph.input.append(helper.make_tensor_value_info("token_type_ids", TensorProto.INT64, ["batch", "tokens"]))
    cases["'token_type_ids' has no part"] = extra
    for text, model in cases.items():
        with pytest.raises(ModelError, match=re.escape(text)):
            graphopt.Session(model.SerializeToString(), threads=1).generate(PROMPT, 2)


def test_bad_prompts_and_options(session: graphopt.Session) -> None:
    prompts = ([], [1.5], [[1], [2, 3]], [[[1]]])
    for prompt in prompts:
        with pytest.raises(InputError):
            session.generate(prompt, 2)
    with pytest.raises(InputError, match="out of"):
        session.generate([WORDS + 3], 2)
    with pytest.raises(InputError, match="end in ones"):
        session.generate(PROMPT, 2, attention_mask=[1, 1, 1, 0])
    with pytest.raises(InputError, match="one prompt"):
        session.tokens([PROMPT, PROMPT], 2)
    for options in ({"temperature": -1.0}, {"temperature": np.inf}, {"top_k": 0}):
        with pytest.raises(OptionError):
            session.generate(PROMPT, 2, **options)
    with pytest.raises(OptionError, match="max_new_tokens"):
        session.generate(PROMPT, 0)


def test_drawing_follows_the_distribution_and_the_seed(session: graphopt.Session) -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))
    choose = Choice(1.0, None, 0)
    counts = Counter(int(choose(logits)[0]) for _ in range(4000))
    for token, share in enumerate((0.5, 0.3, 0.15, 0.05)):
        assert abs(counts[token] / 4000 - share) < 0.03
    few = Choice(1.0, 2, 0)
    assert {int(few(logits)[0]) for _ in range(200)} == {0, 1}
    first, again, other = (session.generate(PROMPT, 30, temperature=2.0, seed=seed).tolist() for seed in (1, 1, 2))
    assert first == again != other

"""Exports of decoders with their caches, by both exporters: `python -m tests.strangers.decoders FOLDER [STYLE …]`.

Needs torch and transformers (the extra `strangers`). Llama, Qwen2, Gemma 1 and 3, Phi and GPT-2 as
STYLE-EXPORTER.onnx, with input_ids, attention_mask, position_ids and past_key_values.*, logits and present.*; T5,
MarianMT and Whisper as folders with Optimum's names. Two layers of realistic width with random weights; each file is
written once.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

LAYERS, WIDTH, HEADS, GROUPS, INNER, WORDS = 2, 576, 9, 3, 1536, 2000
"""Sizes of SmolLM2-135M, with fewer layers and words."""
_SIZES = {
    "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS, "vocab_size": WORDS, "max_position_embeddings": 2048,
}  # fmt: skip
DECODERS, PAIRS = ("llama", "qwen2", "gemma", "gemma3", "phi", "gpt2"), ("t5", "marian", "whisper")
OPSETS = {"script": 17, "dynamo": 18}


def decoder(style: str) -> Any:
    """A model for the next token. KeyError for an unknown style."""
    models = {
        "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**_SIZES)),
        "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**_SIZES)),
        "gemma": lambda: transformers.GemmaForCausalLM(transformers.GemmaConfig(**_SIZES, head_dim=WIDTH // HEADS)),
        "gemma3": lambda: transformers.Gemma3ForCausalLM(
            transformers.Gemma3TextConfig(
                **_SIZES,
                head_dim=WIDTH // HEADS,
                sliding_window=256,
                layer_types=["sliding_attention", "full_attention"],
            )
        ),
        "phi": lambda: transformers.PhiForCausalLM(transformers.PhiConfig(**{**_SIZES, "num_key_value_heads": HEADS})),
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, vocab_size=WORDS, n_positions=2048)
        ),
    }
    return models[style]()


def pair(style: str) -> Any:
    """A model from one sequence to another. KeyError for an unknown style."""
    sizes = {
        "d_model": 512, "encoder_layers": LAYERS, "decoder_layers": LAYERS, "encoder_attention_heads": 8,
        "decoder_attention_heads": 8, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048, "vocab_size": WORDS,
        "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 1,
    }  # fmt: skip
    models = {
        "t5": lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(num_layers=LAYERS, vocab_size=WORDS, decoder_start_token_id=0)
        ),
        "marian": lambda: transformers.MarianMTModel(transformers.MarianConfig(**sizes, forced_eos_token_id=1)),
        "whisper": lambda: transformers.WhisperForConditionalGeneration(
            transformers.WhisperConfig(
                **sizes, bos_token_id=1, num_mel_bins=16, max_source_positions=100, max_target_positions=2048
            )
        ),
    }
    return models[style]()


class Step(nn.Module):
    """One step of a decoder: tokens, mask, positions and the cache, to logits and the longer cache."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Any, mask: Any, positions: Any, *pasts: Any) -> tuple[Any, ...]:
        cache = transformers.DynamicCache()
        for layer in range(len(pasts) // 2):
            cache.update(pasts[2 * layer], pasts[2 * layer + 1], layer)
        made = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        return (made.logits, *(x for layer in made.past_key_values.layers for x in (layer.keys, layer.values)))


class Encoder(nn.Module):
    """The encoder of a pair."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.get_encoder()

    def forward(self, x: Any, mask: Any = None) -> Any:
        return self.model(x, **({} if mask is None else {"attention_mask": mask})).last_hidden_state


class FirstToken(nn.Module):
    """The decoder of a pair without a cache: logits, then the keys and values of both attentions, layer by layer."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Any, hidden: Any, mask: Any = None) -> tuple[Any, ...]:
        made = self.model(decoder_input_ids=ids, encoder_outputs=(hidden,), attention_mask=mask, use_cache=True)
        cache = made.past_key_values
        both = zip(cache.self_attention_cache.layers, cache.cross_attention_cache.layers)
        return (made.logits, *(x for one in both for layer in one for x in (layer.keys, layer.values)))


class NextToken(nn.Module):
    """The decoder of a pair with its cache; the first of `rest` is the mask where the encoder has one."""

    def __init__(self, model: Any, masked: bool) -> None:
        super().__init__()
        self.model, self.masked = model, masked

    def forward(self, ids: Any, *rest: Any) -> tuple[Any, ...]:
        mask, pasts = (rest[0], rest[1:]) if self.masked else (None, rest)
        cache = transformers.EncoderDecoderCache(transformers.DynamicCache(), transformers.DynamicCache())
        for layer in range(LAYERS):
            a, b, c, d = pasts[4 * layer : 4 * layer + 4]
            cache.self_attention_cache.update(a, b, layer)
            cache.cross_attention_cache.update(c, d, layer)
            cache.is_updated[layer] = True
        hidden = torch.zeros(ids.shape[0], pasts[2].shape[2], self.model.config.d_model)
        made = self.model(
            decoder_input_ids=ids, encoder_outputs=(hidden,), attention_mask=mask, past_key_values=cache,
            use_cache=True,
        )  # fmt: skip
        layers = made.past_key_values.self_attention_cache.layers
        return (made.logits, *(x for layer in layers for x in (layer.keys, layer.values)))


def write(
    model: nn.Module, inputs: Sequence[Any], names: Sequence[str], axes: dict[str, dict[int, str]], results: list[str],
    path: Path, exporter: str,
) -> None:  # fmt: skip
    """Export a model, whose arguments after the first ones are one tuple to torch where it has `*`."""
    if path.exists():
        return
    options: dict[str, Any] = {"input_names": list(names), "output_names": results, "opset_version": OPSETS[exporter]}
    if exporter == "script":
        options |= {"dynamic_axes": axes, "dynamo": False}
    else:
        open_sizes = [dict.fromkeys(axes[name], torch.export.Dim.DYNAMIC) for name in names]
        fixed = {Step: 3, NextToken: 1}.get(type(model), len(names))
        shapes = (*open_sizes[:fixed], *([tuple(open_sizes[fixed:])] if fixed < len(names) else []))
        options |= {"dynamic_shapes": shapes, "dynamo": True, "external_data": False, "verbose": False}
    with torch.no_grad():
        torch.onnx.export(model.eval(), tuple(inputs), str(path), **options)
    print(path, flush=True)


def write_decoder(model: Any, path: Path, exporter: str) -> None:
    """Export a step of a decoder."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", HEADS)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pasts = [torch.randn(2, heads, 5, size) for _ in range(2 * config.num_hidden_layers)]
    kinds = [f"{layer}.{kind}" for layer in range(config.num_hidden_layers) for kind in ("key", "value")]
    names = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{kind}" for kind in kinds)]
    axes = {name: {0: "batch", 2: "past"} for name in names}
    axes |= {"input_ids": {0: "batch", 1: "seq"}, "position_ids": {0: "batch", 1: "seq"}}
    axes |= {"attention_mask": {0: "batch", 1: "total"}}
    inputs = [
        torch.ones(2, 3, dtype=torch.long), torch.ones(2, 8, dtype=torch.long), torch.arange(5, 8).repeat(2, 1), *pasts,
    ]  # fmt: skip
    results = ["logits", *(f"present.{kind}" for kind in kinds)]
    write(Step(model), inputs, names, axes, results, path, exporter)


def write_pair(style: str, exporter: str, folder: Path) -> None:
    """Export the three models of a pair into a folder."""
    model, place = pair(style).eval(), folder / f"{style}-{exporter}"
    place.mkdir(parents=True, exist_ok=True)
    masked, tokens = style != "whisper", torch.ones(2, 3, dtype=torch.long)
    source = torch.ones(2, 7, dtype=torch.long) if masked else torch.randn(2, 16, 200)
    mask = [torch.ones(2, 7, dtype=torch.long)] if masked else []
    rows = {0: "batch", 1: "encoder_sequence"}
    names = ["input_ids", "attention_mask"] if masked else ["input_features"]
    axes = {name: rows if masked else {0: "batch"} for name in names}
    write(Encoder(model), [source, *mask], names, axes, ["last_hidden_state"], place / "encoder_model.onnx", exporter)
    with torch.no_grad():
        hidden = Encoder(model)(source, *mask)
        first = FirstToken(model)(tokens, hidden, *mask)
    kinds = [
        f"{n}.{part}.{kind}" for n in range(LAYERS) for part in ("decoder", "encoder") for kind in ("key", "value")
    ]
    names = ["input_ids", "encoder_hidden_states", *(["encoder_attention_mask"] if masked else [])]
    axes = {"input_ids": {0: "batch", 1: "seq"}, names[1]: rows, names[-1]: rows} | {
        "input_ids": {0: "batch", 1: "seq"}
    }
    results = ["logits", *(f"present.{kind}" for kind in kinds)]
    write(FirstToken(model), [tokens, hidden, *mask], names, axes, results, place / "decoder_model.onnx", exporter)
    pasts = [f"past_key_values.{kind}" for kind in kinds]
    names = ["input_ids", *(["encoder_attention_mask"] if masked else []), *pasts]
    axes = {name: {0: "batch", 2: "past" if ".decoder." in name else "encoder_sequence"} for name in pasts}
    axes |= {"input_ids": {0: "batch"}, "encoder_attention_mask": rows}
    inputs = [tokens[:, :1], *mask, *(x.clone() for x in first[1:])]
    results = ["logits", *(f"present.{kind}" for kind in kinds if ".decoder." in kind)]
    path = place / "decoder_with_past_model.onnx"
    write(NextToken(model, masked), inputs, names, axes, results, path, exporter)


def main() -> None:
    """Export the styles that are named, or all."""
    folder, styles = Path(sys.argv[1]), sys.argv[2:] or [*DECODERS, *PAIRS]
    folder.mkdir(parents=True, exist_ok=True)
    root = Path(__file__).resolve().parents[2]
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != root]  # transformers finds kernels/
    warnings.filterwarnings("ignore")
    for style in styles:
        for exporter in OPSETS:
            torch.manual_seed(0)
            if style in PAIRS:
                write_pair(style, exporter, folder)
            else:
                write_decoder(decoder(style), folder / f"{style}-{exporter}.onnx", exporter)


if __name__ == "__main__":
    main()

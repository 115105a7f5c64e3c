"""Exports of decoders with their caches, by both exporters:
`python -m tests.strangers.decoders FOLDER [STYLE …] [--wide] [--opset N]`.

Needs torch and transformers (the extra `strangers`). STYLE-EXPORTER.onnx, with input_ids, attention_mask, position_ids
and past_key_values.*, logits and present.*: by default those of `DECODERS`, on demand those of `ASIDE`, too; T5,
MarianMT and Whisper as folders with Optimum's names. Random weights: two layers of realistic width with a small
vocabulary, or by `--wide` the sizes of `WIDE`, as STYLE-wide-EXPORTER.onnx. `--opset`: of both exporters, as
STYLE-EXPORTER-N.onnx. Each file is written once.
"""

from __future__ import annotations

import argparse
import inspect
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
_NAMES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size",
          "vocab_size")  # fmt: skip
WIDE = {
    "llama": (6, 576, 9, 3, 1536, 32000), "qwen2": (6, 896, 14, 2, 4864, 32000), "gemma3": (6, 640, 4, 1, 2048, 32000),
    "phi": (4, 1024, 16, 16, 4096, 32000), "gpt2": (6, 768, 12, 12, 3072, 32000), "tiny": (2, 64, 4, 2, 128, 512),
    "gemma": (4, 1024, 8, 1, 4096, 32000), "mistral": (4, 1024, 16, 4, 3584, 32000),
    "t5": (6, 512, 8, 8, 2048, 32000), "marian": (6, 512, 8, 8, 2048, 32000), "whisper": (4, 384, 6, 6, 1536, 32000),
}  # fmt: skip
"""Layers, width, heads, heads of keys, inner width and words: of SmolLM2, Qwen2-0.5B, Gemma-3-270M, a Phi, GPT-2,
a tiny Llama, a Gemma, a Mistral, T5-small, MarianMT and Whisper-tiny, with fewer layers and words in most."""
DECODERS, PAIRS = ("llama", "qwen2", "gemma", "gemma3", "phi", "gpt2", "mistral"), ("t5", "marian", "whisper")
ASIDE = (
    "stablelm", "starcoder2", "granite", "olmo2", "gpt_neox", "phi3", "qwen3", "opt", "bloom", "falcon", "falcon_new",
    "falcon_alibi",
)  # fmt: skip
"""Styles kept aside from those that rewrites were developed on; for GPT-NeoX and Phi-3 rules were mended since."""
OPSETS = {"script": 17, "dynamo": 18}


def decoder(style: str, sizes: tuple[int, ...] = (LAYERS, WIDTH, HEADS, GROUPS, INNER, WORDS)) -> Any:
    """A model for the next token, of `sizes` as in `WIDE`. KeyError for an unknown style."""
    layers, width, heads, groups, inner, words = sizes
    given = {**dict(zip(_NAMES, sizes)), "max_position_embeddings": 2048}
    even = {**given, "num_key_value_heads": heads}
    size = 256 if words == WIDE["gemma3"][-1] else width // heads
    kinds = ["full_attention" if n % 6 == 5 or n + 1 == layers else "sliding_attention" for n in range(layers)]
    one = {**given, "ffn_hidden_size": inner, "alibi": False}
    learned = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_inner": inner, "vocab_size": words}
    models = {
        "llama": ("Llama", "Llama", given),
        "tiny": ("Llama", "Llama", given),
        "qwen2": ("Qwen2", "Qwen2", given),
        "gemma": ("Gemma", "Gemma", {**given, "head_dim": size}),
        "gemma3": ("Gemma3", "Gemma3Text", {**given, "head_dim": size, "sliding_window": 256, "layer_types": kinds}),
        "phi": ("Phi", "Phi", even),
        "gpt2": ("GPT2LMHead", "GPT2", {**learned, "n_positions": 2048}),
        "mistral": ("Mistral", "Mistral", {**given, "sliding_window": 256}),
        "stablelm": ("StableLm", "StableLm", given),
        "starcoder2": ("Starcoder2", "Starcoder2", given),
        "granite": ("Granite", "Granite", given),
        "olmo2": ("Olmo2", "Olmo2", even),
        "gpt_neox": ("GPTNeoX", "GPTNeoX", even),
        "phi3": ("Phi3", "Phi3", {**given, "pad_token_id": 0}),
        "qwen3": ("Qwen3", "Qwen3", {**given, "head_dim": 64}),
        "bloom": ("Bloom", "Bloom", {"hidden_size": width, "n_layer": layers, "n_head": heads, "vocab_size": words}),
        "falcon": ("Falcon", "Falcon", {**one, "multi_query": True}),
        "falcon_new": ("Falcon", "Falcon", {**one, "new_decoder_architecture": True, "num_kv_heads": groups}),
        "falcon_alibi": ("Falcon", "Falcon", {**one, "multi_query": False, "alibi": True, "parallel_attn": False}),
        "opt": ("OPT", "OPT", {**even, "ffn_dim": inner, "word_embed_proj_dim": width}),
    }
    kind, config, options = models[style]
    if "LMHead" in kind:
        kind = kind.removesuffix("LMHead") + "LMHeadModel"
    else:
        kind += "ForCausalLM"
    return drawn(getattr(transformers, kind)(getattr(transformers, f"{config}Config")(**options)))


def drawn(model: Any) -> Any:
    """The model with random gains and biases: fresh ones are ones and zeros, which any optimizer drops."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def pair(style: str, sizes: tuple[int, ...] = (LAYERS, 512, 8, 8, 2048, WORDS)) -> Any:
    """A model from one sequence to another, of `sizes` as in `WIDE`. KeyError for an unknown style."""
    layers, width, heads, _, inner, words = sizes
    options = {
        "d_model": width, "encoder_layers": layers, "decoder_layers": layers, "encoder_attention_heads": heads,
        "decoder_attention_heads": heads, "encoder_ffn_dim": inner, "decoder_ffn_dim": inner, "vocab_size": words,
        "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 1,
    }  # fmt: skip
    models = {
        "t5": lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(num_layers=layers, vocab_size=words, decoder_start_token_id=0)
        ),
        "marian": lambda: transformers.MarianMTModel(transformers.MarianConfig(**options, forced_eos_token_id=1)),
        "whisper": lambda: transformers.WhisperForConditionalGeneration(
            transformers.WhisperConfig(
                **options, bos_token_id=1, num_mel_bins=16, max_source_positions=100, max_target_positions=2048
            )
        ),
    }
    return drawn(models[style]())


class Step(nn.Module):
    """One step of a decoder: tokens, mask, positions and the cache, to logits and the longer cache."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Any, mask: Any, positions: Any, *pasts: Any) -> tuple[Any, ...]:
        cache = transformers.DynamicCache()
        for layer in range(len(pasts) // 2):
            cache.update(pasts[2 * layer], pasts[2 * layer + 1], layer)
        taken = inspect.signature(self.model.forward).parameters  # BLOOM has no positions, and two styles say `cache`
        more = {"position_ids": positions} if "position_ids" in taken else {}
        more["cache" if "cache" in taken else "past_key_values"] = cache
        made = self.model(input_ids=ids, attention_mask=mask, use_cache=True, **more)
        return (made.logits, *(x for layer in cache.layers for x in (layer.keys, layer.values)))


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
        for layer in range(len(pasts) // 4):
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
    path: Path, exporter: str, opset: int | None = None,
) -> None:  # fmt: skip
    """Export a model, whose arguments after the first ones are one tuple to torch where it has `*`."""
    if path.exists():
        return
    options: dict[str, Any] = {"input_names": list(names), "output_names": results}
    options["opset_version"] = opset or OPSETS[exporter]
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


def groups_of(config: Any) -> int:
    """Heads of keys in the cache: Falcon keeps one, or repeats a few to as many as there are of queries."""
    if hasattr(config, "multi_query"):
        return 1 if config.multi_query and not config.new_decoder_architecture else int(config.num_attention_heads)
    return int(getattr(config, "num_key_value_heads", config.num_attention_heads))


def write_decoder(model: Any, path: Path, exporter: str, opset: int | None = None) -> None:
    """Export a step of a decoder."""
    config = model.config
    heads = groups_of(config)
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
    write(Step(model), inputs, names, axes, results, path, exporter, opset)


def write_pair(model: Any, place: Path, exporter: str) -> None:
    """Export the three models of a pair into a folder."""
    model = model.eval()
    place.mkdir(parents=True, exist_ok=True)
    masked, tokens = not hasattr(model.config, "num_mel_bins"), torch.ones(2, 3, dtype=torch.long)
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
        f"{n}.{part}.{kind}"
        for n in range(len(first) // 4)
        for part in ("decoder", "encoder")
        for kind in ("key", "value")
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("styles", nargs="*", metavar="STYLE")
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--opset", type=int)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    root = Path(__file__).resolve().parents[2]
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != root]  # transformers finds kernels/
    warnings.filterwarnings("ignore")
    for style in asked.styles or [*(WIDE if asked.wide else (*DECODERS, *PAIRS))]:
        sizes = (WIDE[style],) if asked.wide else ()
        for exporter in OPSETS:
            name = f"{style}{'-wide' * asked.wide}-{exporter}{f'-{asked.opset}' if asked.opset else ''}"
            torch.manual_seed(0)
            try:
                if style in PAIRS:
                    write_pair(pair(style, *sizes), asked.folder / name, exporter)
                else:
                    write_decoder(decoder(style, *sizes), asked.folder / f"{name}.onnx", exporter, asked.opset)
            except Exception as error:  # exporters raise anything
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                print(f"{name}: not exported: {type(error).__name__}: {reason[:120]}", flush=True)


if __name__ == "__main__":
    main()

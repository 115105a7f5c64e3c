"""Makes tests/data/exports: what torch's two exporters write of small transformers, activations and norms.

`python -m tests.data.make_exports` with torch 2.13 and transformers 5; neither is needed to test or use graphopt. Names
are MODEL-ATTENTION-EXPORTER-OPSET.onnx: attention as arithmetic ("eager") or as torch's own function ("sdpa"), exporter
"script" (TorchScript, `dynamo=False`) or "dynamo". Weights are random. Where a node came from in torch's source is left
out, which keeps every file below 100 KB.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
import transformers
from torch import nn

FOLDER = Path(__file__).parent / "exports"
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {**SMALL, "vocab_size": 40, "max_position_embeddings": 32}
IDS = torch.ones(2, 5, dtype=torch.long)


class First(nn.Module):
    """The first result of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        made = self.model(*inputs)
        return made if isinstance(made, torch.Tensor) else made[0]


class Activations(nn.Module):
    """Every activation once, those of torch and those that models write out themselves."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.gelu(x) + F.gelu(x + 1, approximate="tanh")
        y = F.silu(y) + F.hardswish(y) + F.hardsigmoid(y) + F.mish(y)
        y = F.leaky_relu(y, 0.2) + F.relu6(y) + y * torch.sigmoid(1.702 * y)
        y = 0.5 * y * (1 + torch.tanh(0.7978845608 * (y + 0.044715 * torch.pow(y, 3))))
        return y * torch.clamp(y + 3, 0, 6) / 6 + torch.where(y > 0, y, 0.3 * y)


class Norms(nn.Module):
    """Every normalization once."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.group, self.instance = nn.LayerNorm(8), nn.GroupNorm(2, 6), nn.InstanceNorm2d(6, affine=True)
        self.rms = nn.RMSNorm(8)
        self.scale, self.shift = nn.Parameter(torch.randn(6, 1, 1)), nn.Parameter(torch.randn(6, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.instance(self.layer(x) + self.rms(x))
        y = self.group(y) * self.scale + self.shift
        return F.normalize(y, dim=1) + torch.log_softmax(y, -1)


class Cross(nn.Module):
    """Attention from one sequence to another."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return self.attention(q, k, k, need_weights=False)[0]


class Weights(nn.Module):
    """Attention that also tells its weights, which torch computes with products of three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made, weights = self.attention(x, x, x)
        return made + weights.sum()


class Packed(nn.Module):
    """Attention as timm's vision transformers write it: queries, keys and values along an axis of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        made = ((q * 8**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(made.transpose(1, 2).reshape(x.shape))


class Cached(nn.Module):
    """Attention of a step of decoding: new keys and values after those of earlier steps, which it hands on."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

    def forward(
        self, x: torch.Tensor, past_k: torch.Tensor, past_v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v = (f(x).view(x.shape[0], x.shape[1], 2, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = torch.cat((past_k, k), 2), torch.cat((past_v, v), 2)
        made = torch.softmax(q @ k.transpose(2, 3) * 8**-0.5, -1) @ v
        return self.o(made.transpose(1, 2).reshape(x.shape)), k, v


def fixed() -> dict[str, tuple[nn.Module, tuple[torch.Tensor, ...], tuple[str, ...]]]:
    """Models whose length the older exporter writes into the graph: only the batch is open."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
    return {
        "encoder_fixed-sdpa": (layer, (torch.randn(2, 5, 16),), ("x",)),
        "cross_fixed-sdpa": (Cross(), (torch.randn(2, 5, 16), torch.randn(2, 7, 16)), ("q", "k")),
        "weights_fixed-eager": (Weights(), (torch.randn(2, 5, 16),), ("x",)),
    }


def export_fixed(name: str, model: nn.Module, inputs: tuple[torch.Tensor, ...], names: tuple[str, ...]) -> None:
    """Write a model with both exporters, only the batch open."""
    whole, batch = First(model.eval()).eval(), torch.export.Dim("batch")
    file = FOLDER / f"{name}-script-17.onnx"
    torch.onnx.export(
        whole, inputs, file, input_names=list(names), output_names=["y"], dynamo=False, opset_version=17,
        dynamic_axes={n: {0: "batch"} for n in names},
    )  # fmt: skip
    strip(file)
    file = FOLDER / f"{name}-dynamo-20.onnx"
    torch.onnx.export(
        whole, inputs, file, input_names=list(names), output_names=["y"], dynamo=True, external_data=False,
        verbose=False, opset_version=20, dynamic_shapes=[tuple({0: batch} for _ in inputs)],
    )  # fmt: skip
    strip(file)


def export_cached() -> None:
    """Write a step of decoding with both exporters."""
    model, sizes = Cached().eval(), (2, 2, 4, 8)  # two tensors: of one that is given twice torch makes one input
    inputs, names = (torch.randn(2, 3, 16), torch.randn(sizes), torch.randn(sizes)), ("x", "past_k", "past_v")
    axes = {"x": {0: "batch", 1: "length"}, **{n: {0: "batch", 2: "past"} for n in names[1:]}}
    outputs = ["y", "present_k", "present_v"]
    file = FOLDER / "cached-eager-script-17.onnx"
    torch.onnx.export(
        model, inputs, file, input_names=list(names), output_names=outputs, dynamo=False, opset_version=17,
        dynamic_axes=axes,
    )  # fmt: skip
    strip(file)
    batch, length, before = (torch.export.Dim(n) for n in ("batch", "length", "past"))
    shapes = ({0: batch, 1: length}, {0: batch, 2: before}, {0: batch, 2: before})
    for opset in (20, 23):
        file = FOLDER / f"cached-eager-dynamo-{opset}.onnx"
        torch.onnx.export(
            model, inputs, file, input_names=list(names), output_names=outputs, dynamo=True, external_data=False,
            verbose=False, opset_version=opset, dynamic_shapes=shapes,
        )  # fmt: skip
        strip(file)


def models() -> dict[str, tuple[nn.Module, tuple[torch.Tensor, ...], tuple[str, ...]]]:
    """Each model with its inputs and their names."""
    made: dict[str, tuple[nn.Module, tuple[torch.Tensor, ...], tuple[str, ...]]] = {}
    for how in ("eager", "sdpa"):
        bert = transformers.BertConfig(**TEXT, attn_implementation=how)
        made[f"bert-{how}"] = transformers.BertModel(bert, add_pooling_layer=False), (IDS, IDS), ("ids", "mask")
        gpt2 = transformers.GPT2Config(
            n_embd=16, n_layer=1, n_head=2, vocab_size=40, n_positions=32, attn_implementation=how, use_cache=False
        )  # fmt: skip
        made[f"gpt2-{how}"] = transformers.GPT2Model(gpt2), (IDS,), ("ids",)
        llama = transformers.LlamaConfig(
            **{**TEXT, "num_attention_heads": 4}, num_key_value_heads=2, attn_implementation=how, use_cache=False
        )  # fmt: skip
        made[f"llama-{how}"] = transformers.LlamaModel(llama), (IDS,), ("ids",)
        vit = transformers.ViTConfig(**SMALL, image_size=16, patch_size=8, attn_implementation=how)
        made[f"vit-{how}"] = transformers.ViTModel(vit, add_pooling_layer=False), (torch.ones(2, 3, 16, 16),), ("x",)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
    made["encoder-sdpa"] = layer, (torch.randn(2, 5, 16),), ("x",)
    made["cross-sdpa"] = Cross(), (torch.randn(2, 5, 16), torch.randn(2, 7, 16)), ("q", "k")
    made["packed-eager"] = Packed(), (torch.randn(2, 5, 16),), ("x",)
    made["activations"] = Activations(), (torch.randn(2, 5, 16),), ("x",)
    made["norms"] = Norms(), (torch.randn(2, 6, 4, 8),), ("x",)
    return made


def export(name: str, model: nn.Module, inputs: tuple[torch.Tensor, ...], names: tuple[str, ...]) -> None:
    """Write the model with both exporters, where they can."""
    whole = First(model.eval()).eval()
    opsets = (13, 17) if name in ("activations", "norms") else (17,)
    for opset in opsets:
        axes = {n: {0: "batch", **({1: "length"} if x.ndim < 4 else {})} for n, x in zip(names, inputs)}
        file = FOLDER / f"{name}-script-{opset}.onnx"
        try:
            torch.onnx.export(
                whole, inputs, file, input_names=list(names), output_names=["y"], dynamo=False, opset_version=opset,
                dynamic_axes=axes,
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            print(f"{file.name}: {type(error).__name__}")
        if file.exists():
            strip(file)
    free = torch.export.Dim.DYNAMIC
    shapes = [tuple({0: free, **({1: free} if x.ndim < 4 else {})} for x in inputs)]
    for opset in (20, 23) if name.endswith("eager") and names[0] == "ids" else (20,):
        file = FOLDER / f"{name}-dynamo-{opset}.onnx"
        torch.onnx.export(
            whole, inputs, file, input_names=list(names), output_names=["y"], dynamo=True, external_data=False,
            verbose=False, opset_version=opset, dynamic_shapes=shapes,
        )  # fmt: skip
        strip(file)


def strip(file: Path) -> None:
    """Leave out metadata and doc strings of nodes and values."""
    model = onnx.load(file)
    for item in (*model.graph.node, *model.graph.value_info, model.graph, model):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    onnx.save(model, file)


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    FOLDER.mkdir(exist_ok=True)
    for name, (model, inputs, names) in models().items():
        export(name, model, inputs, names)
    for name, (model, inputs, names) in fixed().items():
        export_fixed(name, model, inputs, names)
    export_cached()


if __name__ == "__main__":
    main()

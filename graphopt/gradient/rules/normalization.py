"""Normalisations: (x − mean) / deviation, over a batch, a layer, an instance, or neighbouring channels."""

from __future__ import annotations

from ...errors import Declined
from ...ir import DType
from ..call import Call, Gradients, Rule
from ..tensor import Tensor


def _by_channel(t: Tensor, rank: int) -> Tensor:
    """A vector [C] as [C, 1, …], which broadcasts over [N, C, …]."""
    return t.unsqueeze(list(range(1, rank - 1))) if rank > 2 else t


def batch_normalization(call: Call) -> Gradients:
    """y = γ (x − m) r + β, r = (v + ε)^−½, at inference: dx = g γ r, dγ = Σ g (x − m) r, dβ = Σ g, dm = −γ r Σ g,
    dv = −½ γ r³ Σ g (x − m). With the statistics of the batch, x̂ = (x − m) r: dx = r (d − mean d − x̂ mean(d x̂)),
    d = g γ, dγ = Σ g x̂; and of the running statistics μ m₀ + (1 − μ) m: dm₀ = μ m̄, and dx has
    (1 − μ) (m̄ + 2 v̄ (x − m))/n"""
    if call.attr("training_mode", 0):
        return _over_batch(call)
    x, gamma, mean, variance, g = call.x, call.input(1), call.input(3), call.input(4), call.g
    over = [0, *range(2, x.rank)]
    r = 1 / (variance + call.attr("epsilon", 1e-5)).Sqrt()
    scale = gamma * r.cast(gamma.dtype)
    found: Gradients = {}
    if 0 in call.wanted:
        found[0] = g * _by_channel(scale, x.rank).cast(x.dtype)
    if call.wanted & {2, 3}:
        total = g.sum(over)
        found[2] = total.cast(gamma.dtype)
        found[3] = -(total.cast(mean.dtype) * scale.cast(mean.dtype))
    if call.wanted & {1, 4}:
        centred = (g * (x - _by_channel(mean, x.rank).cast(x.dtype))).sum(over)
        found[1] = centred.cast(gamma.dtype) * r.cast(gamma.dtype)
        found[4] = centred.cast(r.dtype) * (scale.cast(r.dtype) * r * r * -0.5)
    return {slot: value for slot, value in found.items() if slot in call.wanted}


def _over_batch(call: Call) -> Gradients:
    """As `batch_normalization`, in training mode."""
    x, gamma, momentum = call.x, call.input(1), call.attr("momentum", 0.9)
    axes = [0, *range(2, x.rank)]
    hat, r = _normalised(x, axes, call.attr("epsilon", 1e-5))
    g, mean, variance = (*call.cotangents, None, None)[:3]
    found: Gradients = {0: x.zeros()}
    if g is not None:
        found[0] = _through(g * _by_channel(gamma, x.rank).cast(x.dtype), hat, r, axes)
        found[1] = (g * hat).sum(axes).cast(gamma.dtype)
        found[2] = g.sum(axes).cast(gamma.dtype)
    if mean is not None:
        found[3] = mean * momentum
        found[0] = found[0] + _by_channel(mean * (1 - momentum), x.rank).cast(x.dtype) / _count(x, axes).cast(x.dtype)
    if variance is not None:
        found[4] = variance * momentum
        spread = _by_channel(variance * (2 * (1 - momentum)), x.rank).cast(x.dtype) / _count(x, axes).cast(x.dtype)
        found[0] = found[0] + spread * (hat / r)
    return {slot: value for slot, value in found.items() if slot in call.wanted}


def _normalised(x: Tensor, axes: list[int], epsilon: float, centre: bool = True) -> tuple[Tensor, Tensor]:
    """x̂ = (x − mean) r with r = (variance + ε)^−½; or without the mean: (x̂, r)."""
    centred = x - x.mean(axes, keepdims=True) if centre else x
    r = 1 / ((centred * centred).mean(axes, keepdims=True) + epsilon).Sqrt()
    return centred * r, r


def _through(d: Tensor, hat: Tensor, r: Tensor, axes: list[int], centre: bool = True) -> Tensor:
    """dx = r (d − mean d − x̂ mean(d x̂)), d = dL/dx̂; the middle term only where the mean is subtracted"""
    projected = d - hat * (d * hat).mean(axes, keepdims=True)
    return r * (projected - d.mean(axes, keepdims=True) if centre else projected)


def _layer(call: Call, centre: bool) -> Gradients:
    """As `layer_normalization`; g is 0 where only the statistics are read."""
    x, scale = call.x, call.input(1)
    g = call.y.zeros() if call.cotangents[0] is None else call.g
    work = DType.FLOAT if x.dtype in (DType.FLOAT16, DType.BFLOAT16) else x.dtype  # stash_type 1
    axes = list(range(call.axis(default=-1), x.rank))
    hat, r = _normalised(x.cast(work), axes, call.attr("epsilon", 1e-5), centre)
    wide = g.cast(work)
    found: Gradients = {}
    if 0 in call.wanted:
        dx = _through(wide * scale.cast(work), hat, r, axes, centre)
        mean, deviation = (*call.cotangents[1:], None, None)[:2]
        if mean is not None:
            dx = dx + mean.cast(work) / _count(x, axes)
        if deviation is not None:
            dx = dx - deviation.cast(work) * hat * r * r / _count(x, axes)
        found[0] = dx.cast(x.dtype)
    if 1 in call.wanted:
        found[1] = (wide * hat).reduced_to(scale).cast(scale.dtype)
    if 2 in call.wanted:
        found[2] = g.reduced_to(call.input(2))
    return found


def _count(x: Tensor, axes: list[int]) -> Tensor:
    """The number of elements along some axes, as a number of f32 or f64."""
    sizes = x.writer.ints([x.size(axis) for axis in axes])
    count: Tensor = sizes.ReduceProd(keepdims=0)
    return count.cast(DType.DOUBLE if x.dtype is DType.DOUBLE else DType.FLOAT)


def layer_normalization(call: Call) -> Gradients:
    """y = γ x̂ + β over the last n elements: dx = r (d − mean d − x̂ mean(d x̂)), d = g γ; dγ = Σ g x̂, dβ = Σ g. Of the
    outputs mean and r, with cotangents ḡ and r̄: dx also has ḡ/n − r̄ r² x̂/n"""
    return _layer(call, centre=True)


def rms_normalization(call: Call) -> Gradients:
    """y = γ x r, r = (mean x² + ε)^−½: dx = r (d − x̂ mean(d x̂)), d = g γ, x̂ = x r; dγ = Σ g x̂"""
    return _layer(call, centre=False)


def instance_normalization(call: Call) -> Gradients:
    """y = γ x̂ + β over the spatial axes of each channel: dx as of LayerNormalization, dγ = Σ g x̂, dβ = Σ g"""
    x, scale, g = call.x, call.input(1), call.g
    axes = list(range(2, x.rank))
    hat, r = _normalised(x, axes, call.attr("epsilon", 1e-5))
    found: Gradients = {}
    if 0 in call.wanted:
        found[0] = _through(g * _by_channel(scale, x.rank), hat, r, axes)
    if 1 in call.wanted:
        found[1] = (g * hat).sum([0, *axes])
    if 2 in call.wanted:
        found[2] = g.sum([0, *axes])
    return found


def group_normalization(call: Call) -> Gradients:
    """y = γ x̂ + β over the channels of each group with the spatial axes: as of InstanceNormalization, x seen as
    [N, groups, everything else]"""
    x, scale, g = call.x, call.input(1), call.g
    groups, channels = int(call.attr("num_groups")), x.size(1)
    of_group = scale.dims[0] == groups and channels != groups  # opset 18 has a scale a group
    hat, r = _normalised(x.reshape([0, groups, -1]), [2], call.attr("epsilon", 1e-5))
    spread = hat.reshape(x.shape)
    if of_group:
        raise Declined("GroupNormalization with a scale for each group")
    found: Gradients = {}
    over = [0, *range(2, x.rank)]
    if 0 in call.wanted:
        d = (g * _by_channel(scale, x.rank)).reshape([0, groups, -1])
        found[0] = _through(d, hat, r, [2]).reshape(x.shape)
    if 1 in call.wanted:
        found[1] = (g * spread).sum(over)
    if 2 in call.wanted:
        found[2] = g.sum(over)
    return found


def local_response_normalization(call: Call) -> Gradients:
    """y = x D^−β, D = k + (α/n) Σ over n neighbouring channels of x²: dx = g D^−β − 2 (αβ/n) x Σ' g x D^(−β−1), where
    Σ' runs over the channels in whose neighbourhood x lies"""
    x, size = call.x, int(call.attr("size"))
    alpha, beta, bias = call.attr("alpha", 1e-4), call.attr("beta", 0.75), call.attr("bias", 1.0)
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    d = _neighbours(x * x, before, after) * (alpha / size) + bias
    ratio = _neighbours(call.g * x * d ** (-beta - 1), after, before)
    return {0: call.g * d**-beta - x * ratio * (2 * alpha * beta / size)}


def _neighbours(t: Tensor, before: int, after: int) -> Tensor:
    """The sum over the channels from `before` below to `after` above each."""
    pads = [0, before, *[0] * (t.rank - 2), 0, after, *[0] * (t.rank - 2)]
    padded = t.pad(pads)
    out = None
    for offset in range(before + after + 1):
        part = padded.slice([offset], [t.size(1) + offset], [1])
        out = part if out is None else out + part
    return t if out is None else out


RULES: dict[str, Rule] = {
    "BatchNormalization": batch_normalization, "LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization, "InstanceNormalization": instance_normalization,
    "GroupNormalization": group_normalization, "LRN": local_response_normalization,
}  # fmt: skip

"""`graphopt.Session`: the API of `onnxruntime.InferenceSession` over kernel regions and onnxruntime segments."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, ModelError, OptionError, one_line
from ..ir import Array, Model, collector_paused
from ..machine.cpu import cpu_count
from ..machine.measurements import Pair
from ..machine.sessions import open_as_optimized, session_options
from .cache.manifest import Manifest, Output, Part, manifest_of
from .cache.plan_cache import PlanCache
from .compile.executable import Memory
from .describe import DescribedPart, Description, NodeArg, node_arg
from .execute.growing import KeptCache
from .execute.ort_segment import OrtSegment, run_with_values
from .execute.region import Region
from .execute.whole import RefusedShapes, WholeModel
from .execute.workers import Team
from .feeds import Feeds, in_native_order
from .generate.choice import Choice as TokenChoice
from .generate.decoder import Decoder, decoder_of
from .generate.kept import CacheType, kept_as, logits_alone, shapes_alone
from .generate.loop import ends_of, generated, prompt_of
from .place.lowered_model import Kernels, LoweredModel, digest_of, stamp_of
from .place.measured import Choice, chosen, left_to_onnxruntime, region_times, slower_regions
from .place.stored import ONCE

if TYPE_CHECKING:
    from ..onnx_io.source import ModelSource

_MANIFEST, _CANDIDATES = "manifest", "candidates"
"""Names in the plan cache: of the manifest, and of the digests of the partition and its regions."""


class _Forks:
    """Counts the forks between the import and this process; cheaper to read in each run than the process id."""

    count = 0

    def __init__(self) -> None:
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._add)

    def _add(self) -> None:
        self.count += 1


_forks = _Forks()


class Session:
    """Runs a model: the regions that kernels cover as compiled programs, the rest in onnxruntime.

    `model` is a path, bytes, an `onnx.ModelProto`, an `onnx_ir.Model` or graphopt's own IR, in float32, QDQ, QOperator
    or dynamically quantized form. `threads` share each step (the machine's CPUs by default). `memory="small"` keeps
    Winograd weights as they are and transforms them during each run. Several threads may call it, and forked children.

    Raises ModelError for an unusable model, OptionError for unusable options.
    """

    @collector_paused()
    def __init__(
        self, model: ModelSource | Model, threads: int | None = None, *, memory: Memory = "fast",
        kernels: Kernels = None,
    ) -> None:  # fmt: skip
        """`kernels` True runs every region on kernels, False none, None those that pay: as `warmup` measured, else by
        prediction; "predicted" and "measured" those that pay by prediction or by the times of single regions."""
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise OptionError(f"threads must be a positive number, got {threads!r}")
        if not (kernels is None or isinstance(kernels, bool) or kernels in ("predicted", "measured")):
            raise OptionError(f"kernels must be True, False, None, 'predicted' or 'measured', got {kernels!r}")
        if memory not in ("fast", "small"):
            raise OptionError(f"memory must be 'fast' or 'small', got {memory!r}")
        if isinstance(model, (str, os.PathLike)):  # the file is read again for new sizes, wherever the process is then
            model = os.path.abspath(model)
        self.threads, self._source = threads or cpu_count(), model
        self._team, self._forks = Team(self.threads), _forks.count
        times = {} if isinstance(kernels, bool) else region_times(self.threads).load()
        stamp, digest = stamp_of(model), digest_of(model)
        self._lowered = LoweredModel(model, digest, kernels=kernels, times=times, stamp=stamp)
        cache = None if digest is None else self._cache(digest, memory, kernels, times)
        manifest = None if cache is None else cache.load(_MANIFEST)
        if manifest is None:
            manifest = manifest_of(self._lowered)
            if cache is not None and not self._keep(cache, manifest, greedy=kernels is True):
                cache = None
        self._manifest: Manifest = manifest
        self._feeds = Feeds(manifest.inputs)
        self._outputs = {output.name: output for output in manifest.outputs}
        self._names = list(self._outputs)
        self._in_onnxruntime = WholeModel(self._open_whole)
        self._whole: Any = self._in_onnxruntime.session if manifest.whole else None
        self._runners = [] if manifest.whole else [
            self._runner(index, part, memory, cache) for index, part in enumerate(manifest.parts)
        ]  # fmt: skip
        self._refused = RefusedShapes(self._growing())

    def _cache(self, digest: str, memory: Memory, kernels: Kernels, times: Mapping[str, Pair]) -> PlanCache:
        """The plans of the partition that `kernels` names or this model's `times` choose; other models' measurements do
        not change the key, while the rates of predictions are part of the sources that it digests."""
        if isinstance(kernels, bool):
            return PlanCache(digest, memory, kernels)
        choice: Choice = kernels or "predicted"
        if kernels is None and times:
            choice = chosen(self._candidates(PlanCache(digest, memory, True), self._round), times)
        if choice != "measured":
            return PlanCache(digest, memory, None, choice)
        slower, step = slower_regions(times), 0
        path: tuple[object, ...] = (choice,)
        while True:
            cache = PlanCache(digest, memory, None, *path)
            left = left_to_onnxruntime(self._candidates(cache, partial(self._round, step)), slower)
            if not left:
                return cache
            path, step = (*path, left), step + 1

    def _round(self, index: int | None = None) -> tuple[str, ...]:
        """The digests of partition `index` on the way to the measured one, or of the greedy partition."""
        return self._lowered.greedy if index is None else self._lowered.candidates[index]

    def _candidates(self, cache: PlanCache, compute: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
        """The digests of a cache's partition, computed and saved where they are missing."""
        candidates: tuple[str, ...] | None = cache.load(_CANDIDATES)
        if candidates is None:
            candidates = compute()
            if not self._has_external_weights:
                cache.save(_CANDIDATES, candidates)
        return candidates

    def _keep(self, cache: PlanCache, manifest: Manifest, *, greedy: bool) -> bool:
        """Save the manifest, and digests of the `greedy` partition, by which `_cache` chooses; False with external
        weights, which the model's digest does not cover."""
        if self._has_external_weights:
            return False
        if greedy:
            cache.save(_CANDIDATES, self._lowered.candidates[-1])
        cache.save(_MANIFEST, manifest)
        return True

    def _runner(self, index: int, part: Part, memory: Memory, cache: PlanCache | None) -> Region | OrtSegment:
        if part.model is not None:
            return OrtSegment(part.model, len(part.reads), len(part.writes), self.threads, self._folder)
        region = Region(self._lowered, index, self._team, memory, cache, part.growing)
        if part.shapes is not None:
            region.prepare(part.shapes)
        return region

    @cached_property
    def _has_external_weights(self) -> bool:
        from ..onnx_io import external_bytes

        return external_bytes(self._lowered.original) > 0

    @property
    def _folder(self) -> str:
        """The folder of external data."""
        if isinstance(self._source, str):
            return os.path.dirname(self._source)
        return "" if isinstance(self._source, bytes) else self._lowered.original.folder

    def _open_whole(self) -> Any:
        source = self._source
        if not isinstance(source, (str, bytes)):
            from ..onnx_io import to_proto

            source = to_proto(self._lowered.original).SerializeToString()
        folder = self._folder if isinstance(source, bytes) else ""
        entries = ONCE if self._manifest.computed else None
        return open_as_optimized(source, session_options(threads=self.threads, folder=folder, entries=entries))

    # -- the API of onnxruntime

    def get_inputs(self) -> list[NodeArg]:
        """The model's inputs that a caller must feed."""
        if self._whole is not None:
            return [NodeArg(one.name, one.type, one.shape) for one in self._whole.get_inputs()]
        return [node_arg(given.name, given.type) for given in self._manifest.inputs if given.default is None]

    def get_outputs(self) -> list[NodeArg]:
        """The model's outputs, open sizes by their names in the model."""
        if self._whole is not None:
            return [NodeArg(one.name, one.type, one.shape) for one in self._whole.get_outputs()]
        return [node_arg(output.name, output.type) for output in self._manifest.outputs]

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any], run_options: Any = None) -> list[Any]:
        """The named outputs, or all, for feeds by input name: arrays, or lists and numbers, which become arrays.

        `run_options` are onnxruntime's, for models that onnxruntime runs whole, as it does at shapes that a region's
        kernels refuse. Raises InputError where the feeds do not fit.
        """
        if self._forks != _forks.count:
            self._after_fork()
        if self._whole is not None or feeds in self._refused:
            return self._run_whole(output_names, feeds, run_options)
        outputs, values = self._named(output_names), self._values(feeds)
        if (refusal := self._run_parts(values, {})) is not None:
            self._refused.add(feeds, refusal)
            return self._run_whole(output_names, feeds, run_options)
        return _results(outputs, values)

    def _run_parts(self, values: list[Any], sized: Mapping[int, Any], last: int | None = None) -> str | None:
        """Compute all values; the reason where kernels refuse what a region reads. sized: for nodes in onnxruntime.
        last: the value of which a region may compute the last row alone."""
        for part, runner in zip(self._manifest.parts, self._runners):
            arrays = [values[place] for place in part.reads]
            if isinstance(runner, Region):
                cut = part.writes.index(last) if last in part.writes else None
                made = runner.on_kernels(arrays, cut)
                if made is None:
                    return runner.refusal(arrays, cut)
            else:
                made = runner.run([sized.get(place, array) for place, array in zip(part.reads, arrays)])
            for place, array in zip(part.writes, made):
                values[place] = array
        return None

    def region_inputs(self, feeds: Mapping[str, Any]) -> dict[Region, list[Any]]:
        """Copies of the arrays that each region reads in one run on these feeds; refused ones run in onnxruntime."""
        seen: dict[Region, list[Any]] = {}
        values = self._values(feeds)
        for part, runner in zip(self._manifest.parts, self._runners):
            arrays = [values[place] for place in part.reads]
            if isinstance(runner, Region):
                seen[runner] = [np.array(array) for array in arrays]
            for place, array in zip(part.writes, runner.run(arrays)):
                values[place] = array
        return seen

    def _run_whole(self, names: Sequence[str] | None, feeds: Mapping[str, Any], run_options: Any) -> list[Any]:
        """Run the whole model in onnxruntime; feeds are checked only if onnxruntime rejects them."""
        session = self._whole or self._in_onnxruntime.session
        try:  # as few calls as can be: a small model takes 8 µs
            if all(map(in_native_order, feeds.values())):
                results: list[Any] = session.run(names or self._names, feeds, run_options)
                return results
        except Exception:  # no arrays, or feeds that do not fit: onnxruntime raises its own classes; one line below
            pass
        outputs, arrays = self._named(names), self._feeds.arrays(feeds)
        given = dict(zip((given.name for given in self._manifest.inputs), arrays))
        try:
            return list(session.run([output.name for output in outputs], given, run_options))
        except Exception as error:
            raise InputError(one_line(error)) from error

    def _named(self, names: Sequence[str] | None) -> Sequence[Output]:
        if not names:
            return self._manifest.outputs
        try:
            return [self._outputs[name] for name in names]
        except (KeyError, TypeError) as error:  # TypeError: no list of names
            unknown = error.args[0] if isinstance(error, KeyError) else names
            raise InputError(f"no output {unknown!r}; the model has {', '.join(self._outputs)}") from None

    def _values(self, feeds: Mapping[str, Any], trusted: Collection[str] = ()) -> list[Any]:
        """The model's values by number, with the inputs filled in."""
        arrays = self._feeds.arrays(feeds, trusted)
        return arrays + [None] * (self._manifest.values - len(arrays))

    def _after_fork(self) -> None:
        self._forks = _forks.count
        self._lowered.renew()
        self._in_onnxruntime.after_fork()
        self._whole = self._whole and self._in_onnxruntime.session
        for runner in self._runners:
            runner.after_fork()

    # -- generation of text

    def generate(
        self,
        input_ids: Any,
        max_new_tokens: int,
        *,
        eos_token_id: int | Iterable[int] | None = None,
        attention_mask: Any = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int = 0,
        cache: CacheType = "float32",
    ) -> Array:  # fmt: skip
        """A prompt, int64[tokens] or [batch, tokens], followed by the tokens that a decoder with a cache generates.

        Shorter prompts of a batch are padded in front, 0 in `attention_mask` [batch, tokens]. A row ends with a token
        of `eos_token_id`, repeated up to the longest row. Each token is the most likely one; with a `temperature` above
        0 it is sampled, among the `top_k` most likely, by the seed. `cache="int8"` keeps keys and values in 8 bits with
        a scale for each head and token, a quarter of the memory, where kernels compute the attention. Raises ModelError
        where the model is no such decoder, InputError where the prompt does not fit it or is too long.
        """
        tokens, mask = prompt_of(input_ids, attention_mask)
        choice = TokenChoice(temperature, top_k, seed)
        new = self._generated(tokens, mask, max_new_tokens, eos_token_id, choice, cache)
        written = np.concatenate((tokens, np.stack(list(new), axis=1)), axis=1)
        return written if np.ndim(input_ids) == 2 else written[0]

    def tokens(
        self, input_ids: Any, max_new_tokens: int, *, eos_token_id: int | Iterable[int] | None = None,
        temperature: float = 0.0, top_k: int | None = None, seed: int = 0, cache: CacheType = "float32",
    ) -> Iterator[int]:  # fmt: skip
        """The new tokens of `generate` for one prompt, yielded as they are computed."""
        tokens, mask = prompt_of(input_ids)
        if len(tokens) != 1:
            raise InputError(f"tokens are given one by one for one prompt, not for {len(tokens)}")
        choice = TokenChoice(temperature, top_k, seed)
        new = self._generated(tokens, mask, max_new_tokens, eos_token_id, choice, cache)
        return (int(row[0]) for row in new)

    def _generated(
        self, tokens: Array, mask: Array, new: int, ends: int | Iterable[int] | None, choice: TokenChoice,
        cache: CacheType,
    ) -> Iterator[Array]:  # fmt: skip
        in_pieces = self._whole is None and any(part.growing for part in self._manifest.parts)
        kept = kept_as(cache, self._decoder, self._manifest)
        return generated(
            self._step, self._decoder, tokens, mask, new, ends_of(ends), choice, in_pieces=in_pieces, kept=kept
        )

    def _growing(self) -> dict[str, int]:
        """The growing axis of each cache that kernels read and of their mask, by input name; empty for other models."""
        if not any(part.growing for part in self._manifest.parts):
            return {}
        try:
            decoder = self._decoder
        except ModelError:
            return {}
        mask = {} if decoder.mask is None else {decoder.mask.name: decoder.mask.rank - 1}
        return {cache.past: cache.axis for cache in decoder.caches} | mask

    @cached_property
    def _decoder(self) -> Decoder:
        return decoder_of(self._manifest.inputs, self._manifest.outputs, self._manifest.positions)

    def _step(self, names: Sequence[str], feeds: Mapping[str, Any], *, every_row: bool = False) -> list[Any]:
        """One step of generation. Caches stay where onnxruntime has them, if that runs the whole model, or kernels;
        those may compute the last row of logits alone, unless every row is wanted."""
        if self._forks != _forks.count:
            self._after_fork()
        if self._whole is not None:
            return run_with_values(self._whole, names, feeds)
        kept = {name: fed for name, fed in feeds.items() if isinstance(fed, KeptCache)}
        if not kept:
            return self.run(names, feeds)
        outputs, values = self._named(names), self._values(feeds, kept)
        rows = next(iter(kept.values())).shape[2]
        sized = shapes_alone(self._decoder, self._manifest, values)
        several = feeds[self._decoder.tokens.name].shape[1] > 1 and not every_row
        last = logits_alone(self._decoder, self._manifest) if several else None
        if (refusal := self._run_parts(values, sized, last)) is None:
            return _results(outputs, values)
        arrays = {name: cache.array[:, :, :rows] for name, cache in kept.items()}
        if any(array.dtype == np.uint8 for array in arrays.values()):
            raise ModelError(f"cache='int8' cannot be had, as kernels refuse {refusal}")
        return self.run(names, {**feeds, **arrays})

    # -- the runtime of each part

    def describe(self) -> Description:
        """The segments in the order they run, with the reasons: times, or why nodes are left to onnxruntime."""
        parts: list[DescribedPart] = []
        for index, part in enumerate(self._manifest.parts):
            reasons = {*part.refusals, *filter(None, (part.decision,))}
            runner = self._runners[index] if self._runners else None
            if isinstance(runner, Region):
                reasons.update(runner.refusals)
            where = "kernels" if part.model is None else "onnxruntime"
            parts.append(DescribedPart(where, part.operators, "; ".join(sorted(reasons))))
        return Description(tuple(parts), "\n".join(filter(None, (self._manifest.verdict, str(self._refused)))))

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions that run on kernels."""
        return tuple(runner for runner in self._runners if isinstance(runner, Region))

    @property
    def greedy(self) -> tuple[str, ...]:
        """The digests of the greedy partition's regions, and of itself: keys of the model's measurements, if any."""
        return self._lowered.greedy

    @property
    def covered(self) -> int:
        """Products (Conv, Gemm, MatMul) that run on kernels."""
        return sum(part.products for part in self._manifest.parts if part.model is None)


def _results(outputs: Sequence[Output], values: Sequence[Any]) -> list[Any]:
    """The outputs, out of all values; constant outputs are copied."""
    return [np.array(output.constant) if output.place < 0 else values[output.place] for output in outputs]


def session_of(model: Model, threads: int | None = None) -> Session:
    """A Session on the model as it is emitted; external weights are read from the model's folder."""
    from ..onnx_io import load, to_proto

    return Session(load(to_proto(model), folder=model.folder), threads)

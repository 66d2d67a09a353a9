"""Rollouts of a trainer that generates with vLLM: rounded weights, the phase, the tokens, and nothing in silence."""

from __future__ import annotations

import functools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from mx_plugin.errors import AdoptionError, UnhitLayersError
from mx_plugin.execution.adoption import canonical_name
from mx_plugin.execution.held_weights import UNKNOWN, OwnFormat
from mx_plugin.execution.layer import AdoptedLayer
from mx_plugin.execution.phases import OTHER, ROLLOUT, TRACKER
from mx_plugin.formats.spec import FP16, is_unquantised
from mx_plugin.interfaces import Provider
from mx_plugin.ledger import EnergyRow
from mx_plugin.precision.fused import BY_ENGINE, WEIGHTS_ONLY, Rounding, booked_format
from mx_plugin.precision.weights_only import WeightsOnlyRollouts
from mx_vllm.fused import has_tied_head
from mx_vllm.kernels import VLLM_NAMES

from ..shadow import shadowed
from .holding import Holding
from .place import Place, engine_of, find_vllm, fused_modules
from .sending import RoundedSending
from .starting import reload_of

log = logging.getLogger(__name__)

Tokens = list[list[int]]
AfterRollout = Callable[[Tokens, Tokens], None]

SERVERS = {name: OwnFormat(fmt, UNKNOWN, "a kernel of the server's") for fmt, name in VLLM_NAMES.items()}
"""What vLLM's ``--quantization`` says -> what such a server executes; its kernel is not told."""

_LOADED_STEP = "_last_loaded_step"
"""The step whose weights TRL believes vLLM to hold; -1 before the first sync."""


def vllm_rollouts(
    trainer: Any, policy: nn.Module | None, provider: Provider, on_unhit: str = "fail"
) -> VLLMRollouts | None:
    """What follows vLLM in one run of this trainer; None where it generates without.

    Args:
        policy: its plain model.
        provider: of the run's formats.
        on_unhit: ``fail`` or ``warn``, where vLLM holds a layer in another format than its rollout format.

    Raises:
        AdoptionError: the trainer generates with vLLM in a way that is not known here.
    """
    place = find_vllm(trainer)
    if place is None or policy is None:
        return None
    held = WeightsOnlyRollouts(provider, fused_modules(place, policy), has_tied_head(policy))
    return VLLMRollouts(place, held, on_unhit, [canonical_name(name) for name, _ in policy.named_modules() if name])


class VLLMRollouts:
    """Follows vLLM for one ``train()``.

    Args:
        place: where it is.
        provider: of the run, with the policy's rollouts as vLLM executes them.
        on_unhit: ``fail`` or ``warn``.
        names: of the policy's modules.
    """

    def __init__(self, place: Place, provider: WeightsOnlyRollouts, on_unhit: str, names: Sequence[str]) -> None:
        self.place = place
        self.provider = provider
        self.dtype, self.quantised_by = engine_of(place)
        """The dtype in which vLLM multiplies, "" where it is not known."""
        self._fails = on_unhit == "fail"
        self._layers: list[AdoptedLayer] = []
        self._sending = RoundedSending((), provider.roundings)
        self._holding = Holding(place.model) if place.mode == "colocate" else None
        self._reload = reload_of(place.llm)
        self._own = {} if self._holding is None else self._holding.own(names)
        """Layer -> the MX format in which vLLM executes it by itself."""
        provider.activations = {name: own.activations for name, own in self._own.items() if own.activations != UNKNOWN}
        self._tokens: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        """Phase -> tokens that the trunk processed, and tokens that were sampled, since the last step."""

    # ------------------------------------------------------------------ while a run lasts

    @contextmanager
    def followed(self, trainer: Any, layers: Iterable[AdoptedLayer], after: AfterRollout) -> Iterator[None]:
        """Round every weight that is sent, and tell phase and tokens of what is generated, until the block is left.

        Args:
            layers: the adopted ones, by which the provider was started.
            after: told the prompts and completions of each generation that is not part of an evaluation.

        Raises:
            AdoptionError: a server that quantises weights by itself.
            UnhitLayersError: here or inside, where a weight is not held as its rollout format says.
        """
        self._layers = [layer for layer in layers if layer.role == "policy"]
        self._sending = RoundedSending(self._layers, self.provider.roundings)
        self._follow_quantising_server()
        self._check_names()
        place = self.place
        methods = {place.sync: self._synced(), place.generate: self._generated(after)}
        with ExitStack() as stack:
            stack.enter_context(_synced_anew(trainer))
            stack.enter_context(shadowed(place.owner, methods))
            if place.llm is not None:
                stack.enter_context(shadowed(place.model, {"load_weights": self._loaded()}))
            elif place.client is not None:
                stack.enter_context(shadowed(place.client, {"update_named_params": self._updated()}))
            yield

    def _synced(self) -> Callable[..., Any]:
        original = getattr(self.place.owner, self.place.sync)

        @functools.wraps(original)
        def sync(*args: Any, **kwargs: Any) -> Any:
            self._sending.begin()
            if self._reload is not None:
                self._reload.abandon()  # an earlier sync may have been broken off
            with TRACKER.pushed(OTHER):
                result = original(*args, **kwargs)
                self._check_sync()
            return result

        return sync

    def _loaded(self) -> Callable[..., Any]:
        load = self.place.model.load_weights

        @functools.wraps(load)
        def load_weights(weights: Any, *args: Any, **kwargs: Any) -> Any:
            return load(self._sending(weights), *args, **kwargs)

        return load_weights

    def _updated(self) -> Callable[..., Any]:
        update = self.place.client.update_named_params

        @functools.wraps(update)
        def update_named_params(metadata: Any, named_params: Any) -> Any:
            return update(metadata, self._sending(named_params))

        return update_named_params

    def _generated(self, after: AfterRollout) -> Callable[..., Any]:
        original = getattr(self.place.owner, self.place.generate)

        @functools.wraps(original)
        def generate(*args: Any, **kwargs: Any) -> Any:
            with TRACKER.pushed(ROLLOUT):
                output = original(*args, **kwargs)
                phase = TRACKER.phase
            if not self._sending.syncs:
                self._complain("vLLM generated before the policy's weights were synced to it under MX")
            prompts, completions = read_tokens(output)
            counts = self._tokens[phase]
            for prompt, completion in zip(prompts, completions, strict=True):
                counts[0] += len(prompt) + len(completion) - 1  # the last token is sampled, and processed no more
                counts[1] += len(completion)
            if not TRACKER.is_evaluating:
                after(prompts, completions)
            return output

        return generate

    # ------------------------------------------------------------------ nothing in silence

    def _follow_quantising_server(self) -> None:
        """A server that was started with an MX format of vLLM's executes every layer but the head in it."""
        asked = {name: rounding.format for name, rounding in self.provider.roundings().items()}
        inner = [layer.name for layer in self._layers if not layer.is_lm_head]
        wanted = sorted({asked[name] for name in inner})
        own = SERVERS.get(self.quantised_by or "")
        if own is not None and wanted == [own.format]:
            self._own = dict.fromkeys(inner, own)
        elif self.quantised_by and not all(map(is_unquantised, asked.values())):
            raise AdoptionError(
                f"the vLLM server quantises weights by itself ({self.quantised_by}), which is not what the policy's "
                f"rollouts ask for ({', '.join(wanted)}). Start it without --quantization, or with mxfp8 or mxfp4 "
                "under a policy that rolls out all layers but the head in that format"
            )

    def _check_names(self) -> None:
        if self._holding is None:
            return
        lost = self._holding.follow(self.provider.roundings())
        if lost:
            self._complain(
                f"{len(lost)} layers of the policy have a rollout format but no linear module of that name in vLLM: "
                f"{', '.join(lost[:5])}; exclude them in the policy"
            )

    def _check_sync(self) -> None:
        """After each sync: every weight with a format was sent, and what is held here lies on its grid."""
        sending = self._sending
        sending.syncs += 1
        receives = self.place.llm is not None or self.place.client is not None
        missing = sending.missing() if receives else []
        if missing:
            self._complain(
                f"{len(missing)} layers have a rollout format but were not sent to vLLM in sync {sending.syncs}: "
                f"{', '.join(missing[:5])}"
            )
        if self._holding is not None:
            self._holding.follow(sending.rounding)
            off_grid = self._holding.off_grid() + ([] if self._reload is None else self._reload.differing)
            if off_grid:
                self._complain(
                    "vLLM holds weights off the grid of their rollout format, or not those sent, after sync "
                    f"{sending.syncs}: {', '.join(off_grid[:5])}"
                )

    def _complain(self, message: str) -> None:
        """Raises UnhitLayersError, or warns where the run was asked to."""
        if self._fails:
            raise UnhitLayersError(message)
        log.warning("%s", message)

    # ------------------------------------------------------------------ books

    def rows(self, step: int) -> list[EnergyRow]:
        """What vLLM multiplied since the last call, from the tokens: rounded weights and unquantised activations where
        it does not execute a format of its own.

        A prompt counts once a completion, the head once a sampled token. Batching, attention and what sequences share
        (prefix caching) are not known here: bytes and joules are unknown.
        """
        tokens, self._tokens = self._tokens, defaultdict(lambda: [0, 0])
        rows = []
        for phase, (processed, sampled) in tokens.items():
            for fmt, macs in sorted(self._macs(processed, sampled).items()):
                rows.append(EnergyRow(step, phase, "policy", fmt, self.dtype, macs=macs))
        return rows

    def _macs(self, processed: int, sampled: int) -> dict[str, int]:
        total: dict[str, int] = defaultdict(int)
        for layer in self._layers:
            rounding = self._sending.rounding.get(layer.name, Rounding(FP16))
            count = sampled if layer.is_lm_head else processed
            own = self._own.get(layer.name)
            total[booked_format(rounding.format, str(own or ""))] += count * layer.in_features * layer.out_features
        return total

    def describe(self) -> dict[str, Any]:
        """Plain data for config.json."""
        return {
            "engine": "vllm",
            "mode": self.place.mode,
            "execution": f"{WEIGHTS_ONLY}, {BY_ENGINE}" if self._own else WEIGHTS_ONLY,
            "dtype": self.dtype,
            "synced": self._sending.syncs,
            "checked": "sent weights" if self._holding is None else "sent weights, and those that vLLM holds",
            **self.provider.by_module(),
            "own": {name: own.describe() for name, own in self._own.items()},
        }


@contextmanager
def _synced_anew(trainer: Any) -> Iterator[None]:
    """TRL syncs when the step has changed: an evaluation before training would leave weights that were not rounded.

    At the end it is made to sync once more before whatever comes next, for vLLM is left with rounded weights.
    """
    known = hasattr(trainer, _LOADED_STEP)
    if known:
        setattr(trainer, _LOADED_STEP, -1)
    try:
        yield
    finally:
        if known:
            setattr(trainer, _LOADED_STEP, -1)


def read_tokens(output: Any) -> tuple[Tokens, Tokens]:
    """Prompts and completions of one generation, as token ids: from lists, or from tensors with their masks."""
    if not isinstance(output[0], torch.Tensor):
        return [list(ids) for ids in output[0]], [list(ids) for ids in output[1]]
    prompts, prompt_mask, completions, completion_mask = output[:4]
    return _unpadded(prompts, prompt_mask), _unpadded(completions, completion_mask)


def _unpadded(tokens: torch.Tensor, mask: torch.Tensor) -> Tokens:
    return [row[keep.bool()].tolist() for row, keep in zip(tokens, mask, strict=True)]

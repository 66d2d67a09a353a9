"""GRPO: TRL has the whole correction, but lets it run under vLLM alone. Here it runs on what ``generate`` recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..shadow import Method, shadowed
from .recorder import CorrectionError, recording
from .weights import WeightLog

METHODS = ("_generate_single_turn", "_generate", "_generate_and_score_completions", "_compute_loss")
SETTINGS = ("vllm_importance_sampling_correction", "vllm_importance_sampling_mode", "vllm_importance_sampling_clip_max")

_MODES = {"token": "token_truncate", "sequence": "sequence_truncate"}


@contextmanager
def corrected_grpo(trainer: Any, level: str, cap: float) -> Iterator[None]:
    """TRL's own importance sampling on the sampler's log-probs, for the training of this trainer.

    TRL asks ``use_vllm`` in three places: whether to generate with vLLM (before the samples are there), whether to
    correct them, and whether to weigh the loss. ``use_vllm`` is True for the latter two.
    """
    plain = {name: getattr(trainer, name) for name in METHODS}
    state = _State(trainer, plain, WeightLog(trainer, level, cap))
    settings: dict[str, Any] = {
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": _MODES[level],
        "vllm_importance_sampling_clip_max": cap,
        "vllm_importance_sampling_clip_min": None,
        "use_vllm": False,
    }
    methods = {name: getattr(state, name.lstrip("_")) for name in METHODS}
    with shadowed(trainer, settings | methods):
        yield


class _State:
    def __init__(self, trainer: Any, plain: dict[str, Method], weights: WeightLog) -> None:
        self.trainer, self.plain, self.weights = trainer, plain, weights
        self._recorded = False

    def generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
        if not self.trainer.model.training:  # evaluation updates nothing
            return self.plain["_generate_single_turn"](*arguments, **options)
        with recording() as sampler:
            completions, _ = self.plain["_generate_single_turn"](*arguments, **options)
        self._recorded = True
        return completions, sampler.of(completions)

    def generate(self, *arguments: Any, **options: Any) -> Any:
        self._recorded = False
        found = self.plain["_generate"](*arguments, **options)
        self.trainer.use_vllm = self._recorded
        return found

    def generate_and_score_completions(self, *arguments: Any, **options: Any) -> Any:
        try:
            found = self.plain["_generate_and_score_completions"](*arguments, **options)
        finally:
            self.trainer.use_vllm = False
        if self._recorded:
            if "importance_sampling_ratio" not in found:
                raise CorrectionError(
                    "TRL computed no importance_sampling_ratio from the sampler's log-probs: this version keeps its "
                    "correction elsewhere; install trl 1.16, or set rollout_correction='off'"
                )
            self.weights.add(found["importance_sampling_ratio"], found.get("tool_mask", found["completion_mask"]))
        return found

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        self.trainer.use_vllm = "importance_sampling_ratio" in inputs
        try:
            return self.plain["_compute_loss"](model, inputs, *arguments, **options)
        finally:
            self.trainer.use_vllm = False

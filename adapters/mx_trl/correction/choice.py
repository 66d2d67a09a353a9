"""Whether a trainer's rollouts can be corrected, and by whom."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import Any

from mx_plugin.config import MXConfig

from .recorder import CorrectionError

log = logging.getLogger(__name__)


def rollout_correction(trainer: Any, config: MXConfig, formats_differ: bool = True) -> AbstractContextManager[None]:
    """What ``config.rollout_correction`` asks for, for one ``train()`` of this trainer.

    Args:
        formats_differ: whether the policy's rollouts compute other numbers than its updates; ``auto`` corrects then.

    Raises:
        CorrectionError: a trainer, version of TRL, way to generate or option that it cannot work with. Not for
            ``auto``, which warns and leaves the run uncorrected.
    """
    level = config.rollout_correction
    if level != "off" and _is_grpo_with_vllm(trainer):
        if formats_differ:
            _tell_of_trl(trainer)
        return nullcontext()
    if level != "auto":
        return nullcontext() if level == "off" else _corrected(trainer, level, config)
    if not formats_differ or not _is_correctable(trainer):
        return nullcontext()
    try:
        found = _corrected(trainer, "token", config)
    except CorrectionError as error:
        log.warning("rollouts and updates run in different formats, which is not corrected: %s", error)
        return nullcontext()
    log.info("rollouts and updates run in different formats: tokens are weighed (rollout_correction='token')")
    return found


def _is_grpo_with_vllm(trainer: Any) -> bool:
    if not getattr(trainer, "use_vllm", False):
        return False
    from trl import GRPOTrainer

    return isinstance(trainer, GRPOTrainer)


def _tell_of_trl(trainer: Any) -> None:
    """TRL corrects GRPO's vLLM rollouts by itself, unless it was told not to."""
    if trainer.vllm_importance_sampling_correction:
        mode = trainer.vllm_importance_sampling_mode
        log.info("rollouts run in vLLM in other formats than updates: TRL's own correction weighs them (%s)", mode)
    else:
        log.warning(
            "rollouts run in vLLM in other formats than updates, and vllm_importance_sampling_correction=False leaves "
            "that uncorrected"
        )


def _is_correctable(trainer: Any) -> bool:
    from trl import GRPOTrainer, RLOOTrainer

    return isinstance(trainer, GRPOTrainer | RLOOTrainer)


def _corrected(trainer: Any, level: str, config: MXConfig) -> AbstractContextManager[None]:
    from trl import GRPOTrainer

    cap = config.rollout_correction_cap
    if not _is_correctable(trainer):
        raise CorrectionError(
            f"rollout_correction={level!r} is for GRPOTrainer and RLOOTrainer, not {type(trainer).__name__}; set it to "
            "'off' (PPO takes its old log-probs from the sampler as it is)"
        )
    _check(trainer, level, config.policy_scoring)
    if isinstance(trainer, GRPOTrainer):
        from .grpo import METHODS, SETTINGS, corrected_grpo

        _has(trainer, (*METHODS, *SETTINGS, "use_vllm"))
        return corrected_grpo(trainer, level, cap)
    from .rloo import METHODS as RLOO_METHODS
    from .rloo import corrected_rloo

    _has(trainer, RLOO_METHODS)
    return corrected_rloo(trainer, level, cap)


def _check(trainer: Any, level: str, policy_scoring: str) -> None:
    for name, what in {
        "use_vllm": "vLLM",
        "use_transformers_continuous_batching": "continuous batching",
        "rollout_func": "a rollout_func",
    }.items():
        if getattr(trainer, name, None):
            raise CorrectionError(
                f"rollout_correction={level!r} records what plain generate samples; this trainer samples by {what}. "
                "Set rollout_correction='off'"
            )
    if policy_scoring == "rollout":
        raise CorrectionError(
            "rollout_correction compares the sampler with the gradient formats, but policy_scoring='rollout' has the "
            "samples scored in the rollout formats again; leave policy_scoring at 'gradient'"
        )
    if level == "sequence" and getattr(trainer, "loss_type", None) == "vespo":
        raise CorrectionError("loss_type='vespo' takes weights by token; set rollout_correction='token'")


def _has(trainer: Any, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not hasattr(trainer, name)]
    if missing:
        raise CorrectionError(
            f"{type(trainer).__name__} of TRL {version('trl')} has no {', '.join(missing)}, through which rollouts are "
            "corrected; install trl 1.16, or set rollout_correction='off'"
        )

"""The step-0 gate and the running mismatch: rollout against gradient formats on the same tokens."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mx_plugin.config import MXConfig
from mx_plugin.errors import MXError
from mx_plugin.execution.engine import Engine
from mx_plugin.execution.mismatch import Mismatch, compare

from .distributed.ranks import Ranks
from .roles import Roles
from .samples import Sample, read_sample, sample_of

log = logging.getLogger(__name__)


class MismatchError(MXError, RuntimeError):
    """The step-0 gate was exceeded and ``on_mismatch='fail'``."""


class MismatchProbe:
    """Re-scores a few generated sequences in several precisions, without touching training.

    Passes run without gradients, in eval mode, under a forked random state, and are booked under
    ``other``: the run they watch draws the same numbers with and without them.
    """

    def __init__(
        self, engine: Engine, roles: Roles, config: MXConfig, trainer: Any, ranks: Ranks | None = None
    ) -> None:
        self.ranks = ranks or Ranks()
        self.engine = engine
        self.roles = roles
        self.config = config
        arguments = getattr(trainer, "args", None)
        self.temperature = float(getattr(arguments, "temperature", None) or 1.0)
        self.clip = config.gate_clip or _clip_range(arguments)
        self.gated = False

    def sample(self, model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Sample | None:
        """The first few sequences of a generation; None for a form that we cannot read."""
        return read_sample(model, args, kwargs, output, self.config.mismatch_samples)

    def sample_of(self, prompts: list[list[int]], completions: list[list[int]]) -> Sample | None:
        """The first few of these sequences of token ids; None where there are none."""
        count = self.config.mismatch_samples
        device = next(self.roles.models["policy"].parameters()).device
        return sample_of(prompts[:count], completions[:count], device)

    def measure(self, sample: Sample) -> dict[str, float]:
        """``mx/mismatch/...`` of the policy; at the first call also the gate and the reference."""
        with self._undisturbed():
            rollout = self._logits("policy", sample, policy="rollout")
            gradient = self._logits("policy", sample, policy="gradient")
            result = self._compare(rollout, gradient, sample)
            metrics = {
                "mx/mismatch/kl": result.kl,
                "mx/mismatch/frac_outside_clip": result.frac_outside_clip,
                "mx/mismatch/seq_logratio_std": result.seq_logratio_std,
                "mx/mismatch/mean_abs_logratio": result.mean_abs_logratio,
            }
            if not self.gated:
                self.gated = True
                own = rollout if self.roles.logprob_phase == "rollout" else gradient
                reference = self._reference_logits(sample, "reward")
                if reference is not None:
                    metrics["mx/mismatch/reference_kl"] = self._compare(own, reference, sample).kl
                self._judge(self._over_ranks(result), sample)
        return metrics

    def _over_ranks(self, mine: Mismatch) -> Mismatch:
        """Every rank has sequences of its own; judged is what all found, or one might stop while others go on."""
        found = self.ranks.gather("the step-0 gate", mine)
        tokens = sum(one.tokens for one in found)
        share = [one.tokens / max(tokens, 1) for one in found]
        return replace(
            mine, tokens=tokens,
            kl=sum(part * one.kl for part, one in zip(share, found, strict=True)),
            frac_outside_clip=sum(part * one.frac_outside_clip for part, one in zip(share, found, strict=True)),
        ) if len(found) > 1 else mine  # fmt: skip

    def unquantised_kl(self, sample: Sample) -> dict[str, float]:
        """KL(policy || reference) in nats a token with both unquantised; empty without a reference."""
        with self._undisturbed():
            reference = self._reference_logits(sample, "FP16")
            if reference is None:
                return {}
            policy = self._logits("policy", sample, policy="FP16")
            return {"mx/kl_unquantised": self._compare(policy, reference, sample).kl}

    # ------------------------------------------------------------------ the gate

    def _judge(self, result: Mismatch, sample: Sample) -> None:
        limit = self.config.gate_outside_clip
        if result.frac_outside_clip <= limit:
            log.info(
                "step-0 gate passed: %.2f%% of %d tokens outside 1 +- %g (limit %.2f%%), KL %.3g nats a token",
                100 * result.frac_outside_clip, result.tokens, self.clip, 100 * limit, result.kl,
            )  # fmt: skip
            return
        worst = ", ".join(f"{name} ({error:.1%})" for name, error in self._worst_layers(sample))
        message = (
            f"step-0 gate exceeded: {result.frac_outside_clip:.1%} of {result.tokens} tokens lie outside "
            f"1 +- {self.clip:g} before the first update (limit {limit:.1%}); KL {result.kl:.3g} nats a token. "
            "The clipped objective will discard them. Layers with the largest relative output error: "
            f"{worst}. Choose a wider rollout format for these (or policy C8), or raise gate_outside_clip"
        )
        if self.config.on_mismatch == "fail":
            raise MismatchError(message)
        log.warning(message)

    def _worst_layers(self, sample: Sample, count: int = 5) -> list[tuple[str, float]]:
        """Layers by ||y_rollout - y_gradient|| / ||y_gradient|| on the same inputs, largest first."""
        errors: dict[str, float] = {}
        with self.engine.probing(policy="rollout"):
            rollout = {id(layer): layer.route for layer in self.engine.layers if layer.role == "policy"}
        with self.engine.probing(policy="gradient"):
            for layer in self.engine.layers:
                if layer.role == "policy":
                    layer.route = _comparing(layer.name, layer.route, rollout[id(layer)], layer, errors)
            self._forward(self.roles.models["policy"], sample)
        return sorted(errors.items(), key=lambda item: -item[1])[:count]

    # ------------------------------------------------------------------ passes

    def _compare(self, first: torch.Tensor, second: torch.Tensor, sample: Sample) -> Mismatch:
        """Logits at position t predict token t + 1."""
        return compare(first[:, :-1], second[:, :-1], sample.tokens[:, 1:], sample.sampled[:, 1:], self.clip)

    def _logits(self, role: str, sample: Sample, **phases: str) -> torch.Tensor:
        with self.engine.probing(**phases):
            return self._forward(self.roles.models[role], sample)

    def _reference_logits(self, sample: Sample, phase: str) -> torch.Tensor | None:
        if "reference" in self.roles.models:
            return self._logits("reference", sample, reference=phase)
        if self.roles.reference_is_policy:
            with _as_reference(self.roles.models["policy"], self.roles.reference_adapter):
                return self._logits("policy", sample, policy=phase)
        return None

    def _forward(self, model: nn.Module, sample: Sample) -> torch.Tensor:
        positions = (sample.attention.long().cumsum(1) - 1).clamp(min=0)
        output = model(
            input_ids=sample.tokens, attention_mask=sample.attention, position_ids=positions, use_cache=False
        )
        logits: torch.Tensor = output.logits
        return logits / self.temperature

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        modules = [m for role in ("policy", "reference") if role in self.roles.models
                   for m in self.roles.models[role].modules()]  # fmt: skip
        modes = [module.training for module in modules]
        devices = {p.device for p in self.roles.models["policy"].parameters() if p.device.type == "cuda"}
        forked = torch.random.fork_rng(devices=list(devices)) if modules else nullcontext()
        with torch.no_grad(), forked:
            try:
                for module in modules:
                    module.training = False
                yield
            finally:
                for module, mode in zip(modules, modes, strict=True):
                    module.training = mode


@contextmanager
def _as_reference(policy: Any, adapter: str | None) -> Iterator[None]:
    """The policy as TRL's reference pass sees it: with that adapter in force, or with none."""
    if adapter is None:
        with policy.disable_adapter():
            yield
        return
    # set_adapter also decides what is trainable: put that back as it was, whatever PEFT makes of it.
    trainable = [(parameter, parameter.requires_grad) for parameter in policy.parameters()]
    active = policy.active_adapter
    policy.set_adapter(adapter)
    try:
        yield
    finally:
        policy.set_adapter(active)
        for parameter, flag in trainable:
            parameter.requires_grad_(flag)


def _comparing(name: str, gradient: Any, rollout: Any, layer: Any, errors: dict[str, float]) -> Any:
    def route(x: torch.Tensor) -> torch.Tensor:
        other = rollout(x)
        y: torch.Tensor = gradient(x)
        layer.route = route
        scale = float(y.float().norm())
        errors[name] = float((other.float() - y.float()).norm()) / scale if scale else 0.0
        return y

    return route


def _clip_range(arguments: Any) -> float:
    """The trainer's own clip range: ``cliprange`` (PPO) or ``epsilon`` (GRPO, RLOO); else 0.2."""
    for name in ("cliprange", "epsilon"):
        value = getattr(arguments, name, None)
        if isinstance(value, int | float):
            return float(value)
    return 0.2

"""What a recipe's own flags say: values, refusals, and the importance correction that is put on."""

from __future__ import annotations

from collections.abc import Sequence

from mx_plugin.config import MXConfig
from mx_plugin.precision import load_policy
from mx_plugin.precision.policy import PrecisionPolicy

from .errors import LaunchError

CORRECTION = "--algo.advantage.is_correction_"
_LOW = "0.5"
"""OpenRLHF's own lower threshold; the upper one is ``rollout_correction_cap``."""

_REFUSED_VALUES = (
    ("--ds.zero_stage", "3", "ZeRO-3 keeps a layer's weight in shards between its calls: use --ds.zero_stage 2"),
)
_REFUSED_ABOVE_ONE = (
    ("--ds.tensor_parallel_size", "DeepSpeed replaces the linear layers by its own, which no backend executes"),
)
_REFUSED_SWITCHES = (
    ("--ds.load_in_4bit", "bitsandbytes' layers are no linear layers that could be adopted"),
    ("--ds.deepcompile", "a compiled graph cannot follow the phases"),
    ("--train.async_enable", "the gathering of files and formats follows the synchronous trainer only"),
    ("--actor.gradient_checkpointing_reentrant", "the first forward would pass for one without gradients"),
    ("--model.gradient_checkpointing_reentrant", "the first forward would pass for one without gradients"),
)


def flag_value(recipe: Sequence[str], flag: str) -> str | None:
    """The last value of ``--flag VALUE`` or ``--flag=VALUE``; "" for a switch, None where it is absent."""
    found = None
    for i, word in enumerate(recipe):
        name, equals, value = word.partition("=")
        if name == flag:
            following = recipe[i + 1] if i + 1 < len(recipe) and not recipe[i + 1].startswith("--") else ""
            found = value if equals else following
    return found


def refuse(recipe: Sequence[str]) -> None:
    """Stop before anything is loaded where layers would be bypassed in silence.

    Raises:
        LaunchError: names the flag, its value and what to do.
    """
    for flag, value, why in _REFUSED_VALUES:
        if flag_value(recipe, flag) == value:
            raise LaunchError(f"{flag} {value} is not supported under MX: {why}")
    for flag, why in _REFUSED_ABOVE_ONE:
        value = flag_value(recipe, flag) or "1"
        if value != "1":
            raise LaunchError(f"{flag} {value} is not supported under MX: {why}")
    for flag, why in _REFUSED_SWITCHES:
        if flag_value(recipe, flag) is not None:
            raise LaunchError(f"{flag} is not supported under MX: {why}; leave it out")


def correction_flags(config: MXConfig, recipe: Sequence[str], release: tuple[int, ...]) -> tuple[str, ...]:
    """Flags of OpenRLHF's importance correction to add: none where the recipe has its own, or nothing is quantised.

    ``token`` clamps each token's ratio of training to rollout probability to [0.5, ``rollout_correction_cap``];
    ``sequence`` drops sequences whose mean ratio lies outside. Both are OpenRLHF's; its flags were renamed in 0.11.2.
    """
    if any(word.startswith(CORRECTION) for word in recipe) or config.rollout_correction == "off":
        return ()
    if config.rollout_correction == "auto" and not quantises(config):
        return ()
    sequence = config.rollout_correction == "sequence"
    threshold = (f"{CORRECTION}threshold", _LOW, str(config.rollout_correction_cap))
    if release < (0, 11, 2):
        kind = "seq-mask-tis" if sequence else "tis"
        return (f"{CORRECTION}enable", f"{CORRECTION}type", kind, *threshold)
    level, mode = ("seq", "mask") if sequence else ("token", "clip")
    return (f"{CORRECTION}level", level, f"{CORRECTION}mode", mode, *threshold)


def quantises(config: MXConfig) -> bool:
    """Whether the policy's rollouts or updates may run quantised; a provider by plugin is taken to."""
    from mx_plugin.plugins import providers

    if config.policy in providers():
        return True
    policy: PrecisionPolicy = load_policy(
        config.policy, sensitivity_matrix=config.sensitivity_matrix, max_cost=config.max_cost
    )
    if policy.lm_head is not None or policy.rules:
        return True
    return any(policy.resolve("layer", phase, "policy").quantised for phase in ("rollout", "gradient"))

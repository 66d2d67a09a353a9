"""The launcher's command line: ``--mx.*`` flags, the recipe's module, the recipe's own flags untouched."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from mx_plugin.config import MXConfig
from mx_plugin.errors import nearest

from .errors import LaunchError

RECIPES = ("train_ppo_ray", "train_sft", "train_rm", "train_dpo")
PREFIX = "--mx."
OUTPUT_DIR = "mx_openrlhf"

NOT_HERE = {
    "release_frozen": "DeepSpeed's engines hold the parameters",
    "fpga_layers": "rollouts run in vLLM, not in a backend",
    "on_mismatch": "vllm_kl and is_filter_ratio in metrics.csv tell of the mismatch",
    "gate_outside_clip": "vllm_kl and is_filter_ratio in metrics.csv tell of the mismatch",
    "gate_clip": "vllm_kl and is_filter_ratio in metrics.csv tell of the mismatch",
    "mismatch_every": "vllm_kl is logged at every step",
    "mismatch_samples": "vllm_kl is taken over all samples",
    "kl_every": "the reference is another process; kl in metrics.csv is OpenRLHF's",
}
"""Options of MXConfig that have no effect under OpenRLHF, and why; given, they are refused rather than ignored."""

USAGE = (
    "usage: python -m mx_openrlhf [--mx.policy C] [--mx.output_dir DIR] [--mx.NAME VALUE ...] "
    "openrlhf.cli.{train_ppo_ray,train_sft,train_rm,train_dpo} <the recipe's own flags>"
)


@dataclass(frozen=True)
class Launch:
    """What to run, and how: ``module`` gets ``recipe`` as its command line, word for word."""

    config: MXConfig
    output_dir: str
    module: str
    recipe: tuple[str, ...]

    @property
    def name(self) -> str:
        """The module without its package: ``train_ppo_ray``."""
        return self.module.rpartition(".")[2]


def parse(words: Sequence[str]) -> Launch:
    """Split a command line. Flags of ours come before the module: ``--mx.NAME VALUE`` or ``--mx.NAME=VALUE``.

    A flag whose option is a list may be repeated. ``--mx.config FILE`` reads a YAML file of MXConfig's fields,
    which flags then override.

    Raises:
        LaunchError: no module, one that is not a recipe, an ``--mx.`` flag after it, an option that OpenRLHF
            cannot honour, a flag without its value.
        PolicyError: an unknown option, or a value outside its choices.
    """
    given, rest = _own_flags(words)
    if not rest:
        raise LaunchError(f"no recipe was named; {USAGE}")
    module, *recipe = rest
    if module not in [f"openrlhf.cli.{name}" for name in RECIPES]:
        known = nearest(module, [f"openrlhf.cli.{name}" for name in RECIPES])
        raise LaunchError(f"{module!r} is not a recipe that can run under MX: {known}; {USAGE}")
    late = [word for word in recipe if word.startswith(PREFIX)]
    if late:
        raise LaunchError(f"{late[0]} stands after {module}, whose flags are its own: put it before the module")
    output = given.pop("output_dir", [OUTPUT_DIR])[-1]
    file = given.pop("config", None)
    config = MXConfig.from_yaml(file[-1]) if file else MXConfig()
    config = config.merged({name: _typed(name, values) for name, values in given.items()}, where="--mx")
    _refuse_idle_options(config)
    return Launch(config, output, module, tuple(recipe))


def _own_flags(words: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """``{option: its values}``, and what follows."""
    given: dict[str, list[str]] = {}
    left = list(words)
    while left and left[0].startswith(PREFIX):
        name, equals, value = left.pop(0).removeprefix(PREFIX).partition("=")
        if not equals:
            if not left or left[0].startswith("--"):
                raise LaunchError(f"{PREFIX}{name} has no value: write {PREFIX}{name} VALUE")
            value = left.pop(0)
        given.setdefault(name, []).append(value)
    if left and left[0].startswith("-"):
        raise LaunchError(f"{left[0]} stands before the recipe's module and is not an {PREFIX}* flag; {USAGE}")
    return given, left


def _typed(name: str, values: list[str]) -> Any:
    """The values in the type of MXConfig's field; an unknown name is left to MXConfig to refuse."""
    kind = typing.get_type_hints(MXConfig).get(name, str)
    if isinstance(kind, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not types.NoneType)
    if typing.get_origin(kind) is list:
        return values
    if len(values) > 1:
        raise LaunchError(f"{PREFIX}{name} is given {len(values)} times ({', '.join(values)}) and takes one value")
    value = values[0]
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise LaunchError(f"{PREFIX}{name}={value!r} is neither true nor false")
        return value.lower() == "true"
    try:
        return kind(value)
    except ValueError:
        raise LaunchError(f"{PREFIX}{name}={value!r} is not {kind.__name__}") from None


def _refuse_idle_options(config: MXConfig) -> None:
    defaults = {f.name: getattr(MXConfig(), f.name) for f in fields(MXConfig)}
    for name, why in NOT_HERE.items():
        if getattr(config, name) != defaults[name]:
            raise LaunchError(f"{PREFIX}{name} has no effect under OpenRLHF ({why}): leave it out")
    if list(config.meters) != ["modelled"]:
        raise LaunchError(
            f"{PREFIX}meters={config.meters} is not possible under OpenRLHF: several actors share a device, and each "
            "would count its joules; only 'modelled' is offered"
        )

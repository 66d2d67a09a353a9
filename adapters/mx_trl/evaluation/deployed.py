"""A policy in the formats of its run: adopted outside training, for generation and scoring."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

from mx_plugin.config import MXConfig
from mx_plugin.execution.engine import Engine
from mx_plugin.interfaces import Backend, Provider
from mx_plugin.plugins import get_backend
from mx_plugin.precision import PolicyProvider, load_policy
from mx_plugin.precision.provider_choice import make_provider

from ..errors import StageError


def run_config(run_folder: Path | None, overrides: Mapping[str, Any]) -> MXConfig:
    """The options that the run was executed with, as its ``config.json`` holds them.

    Raises:
        StageError: the file cannot be read.
    """
    config = MXConfig()
    file = None if run_folder is None else run_folder / "config.json"
    if file is not None and file.is_file():
        try:
            options = json.loads(file.read_text(encoding="utf-8"))["mx"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StageError(f"cannot read the options of the run in {file}: {error}") from error
        known = {f.name for f in fields(MXConfig)}
        config = config.merged({name: value for name, value in options.items() if name in known})
    return config.merged(dict(overrides))


def provider_of(policy_file: Path | None, config: MXConfig) -> Provider:
    """The policy that the experiment kept as YAML; without it what the run's options name."""
    if policy_file is not None and policy_file.is_file():
        return PolicyProvider(load_policy(str(policy_file)))
    return make_provider(config)


@contextmanager
def adopted(model: nn.Module, provider: Provider, config: MXConfig, seed: int, device: str) -> Iterator[Engine]:
    """An engine that has adopted ``model`` as the policy; everything is as before when the block ends."""
    with ExitStack() as stack:
        made: dict[str, Backend] = {}

        def backend(name: str) -> Backend:
            if name not in made:
                made[name] = get_backend(name, **config.options_by_backend().get(name, {}))
                stack.callback(made[name].close)
            return made[name]

        default = config.default_backend
        if default == "auto":
            default = "cpu" if device == "cpu" else "reference"
        patterns = {pattern: backend(name) for pattern, name in config.backend_patterns().items()}
        engine = stack.enter_context(Engine(provider, backend(default), patterns, seed=seed))
        engine.adopt({"policy": model})
        yield engine


def quantises(engine: Engine, phase: str) -> bool:
    """Whether any layer leaves the model's own dtype in that phase."""
    return any(engine.formats(layer, phase).quantised for layer in engine.layers)

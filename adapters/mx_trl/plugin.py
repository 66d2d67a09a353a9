"""What mx_trl registers with mx-plugin. Imports neither torch nor a framework."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from typing import Any

from mx_plugin.hookspecs import hookimpl

MX_PLUGIN_INTERFACE = (1, 0)

_FRAMEWORKS = (
    ("trl", (1, 12), "pip install 'mx-plugin[ppo]' (PPO, trl 1.12) or 'mx-plugin[trl]' (trl 1.16 and later)"),
    ("transformers", (5, 0), "pip install 'transformers>=5'"),
    ("accelerate", (1, 0), "pip install accelerate"),
)


@hookimpl
def mx_register_layer_types(register: Callable[[Any], None]) -> None:
    """GPT-2's Conv1D, once transformers is loaded."""
    if "transformers" not in sys.modules:
        return
    from transformers.pytorch_utils import Conv1D

    from mx_plugin.execution.layer_types import LayerType

    register(LayerType(Conv1D, transposed=True))


@hookimpl
def mx_register_checks(register: Callable[..., None]) -> None:
    """Which framework versions are installed, and which trainers they have."""
    register(framework_checks)


def framework_checks() -> list[Any]:
    """One check per framework; an old version is a warning with its remedy."""
    from mx_plugin.check import Check

    checks = []
    for name, oldest, remedy in _FRAMEWORKS:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            checks.append(Check(name, "warn", "not installed; the TRL adapter cannot run", remedy))
            continue
        found = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if found < oldest:
            wanted = ".".join(map(str, oldest))
            checks.append(Check(name, "warn", f"{version} is older than {wanted}, the oldest tested", remedy))
        elif name == "trl":
            line = "has PPO" if found < (1, 13) else "no PPO (the last with it is 1.12)"
            checks.append(Check(name, "ok", f"{version}: {line}"))
        else:
            checks.append(Check(name, "ok", version))
    return checks

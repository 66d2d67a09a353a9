"""The core's lines in ``mx-plugin doctor``: Python, required libraries, extras."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import sys

from ..check import Check

OLDEST_PYTHON = (3, 11)
OLDEST_TORCH = (2, 6)

REQUIRED = {"numpy": "numpy", "pluggy": "pluggy", "PyYAML": "yaml"}
"""Distribution -> module to import. torch has a check of its own."""

EXTRAS = {
    "energy": ("zeus", "the meter 'zeus' cannot measure energy"),
    "safetensors": ("safetensors", "packed tensors cannot be written as safetensors"),
}
"""Extra -> (distribution, what is lost without it). Each lives in one room of the core."""


def required_checks() -> list[Check]:
    """Python, torch with the devices it sees, and the other required libraries."""
    return [_python(), _torch(), *(_library(name, module) for name, module in REQUIRED.items())]


def extra_checks() -> list[Check]:
    """One line per extra of the core; an absent one is a warning."""
    checks = []
    for extra, (distribution, loss) in EXTRAS.items():
        try:
            checks.append(Check(f"extra {extra}", "ok", f"{distribution} {importlib.metadata.version(distribution)}"))
        except importlib.metadata.PackageNotFoundError:
            detail = f"{distribution} is not installed: {loss}"
            checks.append(Check(f"extra {extra}", "warn", detail, f"pip install 'mx-plugin[{extra}]'"))
    return checks


def _python() -> Check:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST_PYTHON:
        return Check("python", "missing", f"{detail} is too old", "use Python 3.11 or newer")
    return Check("python", "ok", detail)


def _torch() -> Check:
    remedy = f"pip install 'torch>={OLDEST_TORCH[0]}.{OLDEST_TORCH[1]}'"
    try:
        torch = importlib.import_module("torch")
        devices = ["cpu"] + [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
        found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    except Exception as error:
        return Check("torch", "missing", f"{type(error).__name__}: {error}", remedy)
    detail = f"{torch.__version__} on {', '.join(devices)}; {torch.get_num_threads()} threads"
    if found < OLDEST_TORCH:
        return Check("torch", "missing", f"{detail}: too old", remedy)
    return Check("torch", "ok", detail)


def _library(distribution: str, module: str) -> Check:
    try:
        importlib.import_module(module)
        return Check(distribution.lower(), "ok", importlib.metadata.version(distribution))
    except Exception as error:
        return Check(
            distribution.lower(), "missing", f"{type(error).__name__}: {error}", f"pip install {distribution.lower()}"
        )

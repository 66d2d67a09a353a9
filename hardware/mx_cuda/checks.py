"""mx_cuda's lines in ``mx-plugin doctor``."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from mx_plugin.check import Check

from .capability import TRITON, device_description, interpreted, path


def implementation_checks() -> list[Check]:
    """Which implementation the backend ``cuda`` is, and why; without a card that is no fault."""
    name = "mx_cuda implementation"
    chosen = path()
    here = device_description()
    if chosen.name == TRITON:
        wrong = "" if interpreted() else _fault()
        if not wrong:
            return [Check(name, "ok", f"cuda is Triton {_triton()} on {here}: {chosen.why}")]
        detail = f"cuda is the reference in plain torch: the kernels failed their check on {here}: {wrong}"
        return [Check(name, "warn", detail, "report it with the versions of torch and Triton; other versions may do")]
    detail = f"cuda is the reference in plain torch: {chosen.why}"
    if not importlib.import_module("torch").cuda.is_available():
        return [Check(name, "ok", f"{detail}; {here}")]
    remedy = "use a card of compute capability 8.0 or later" if find_spec("triton") else "pip install 'mx-plugin[cuda]'"
    cost = "same bits, but MX makes a model slower, not faster"
    return [Check(name, "warn", f"{detail}; {here}; {cost}", remedy)]


def _fault() -> str:
    from .self_check import fault

    return fault("cuda")


def _triton() -> str:
    try:
        return version("triton")
    except PackageNotFoundError:
        return "of unknown version"

"""What mx_cuda registers with mx-plugin. Imports no torch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mx_plugin.hookspecs import RegisterFactory, hookimpl

if TYPE_CHECKING:
    from mx_plugin.check import Check
    from mx_plugin.interfaces import Backend

MX_PLUGIN_INTERFACE = (1, 0)

log = logging.getLogger("mx_cuda")


@hookimpl
def mx_register_backends(register: RegisterFactory) -> None:
    """``cuda``, which ``auto`` is for models on CUDA devices."""
    register("cuda", _cuda, summary="Triton kernels on CUDA devices; the reference where they cannot run")


@hookimpl
def mx_register_checks(register: Callable[[Callable[[], list[Check]]], None]) -> None:
    """Which implementation ``cuda`` is, and why."""
    from .checks import implementation_checks

    register(implementation_checks)


def _cuda(**options: Any) -> Backend:
    from .capability import TRITON, device_description, interpreted, path

    chosen = path()
    why = chosen.why
    if chosen.name == TRITON:
        from .backend import CudaBackend
        from .self_check import fault

        wrong = "" if interpreted() else fault("cuda")
        if not wrong:
            log.info("backend cuda: %s", why)
            return CudaBackend(**options)
        why = f"the kernels failed their check on {device_description()}: {wrong}"
    from mx_plugin import get_backend

    log.warning("backend cuda is the reference in plain torch: %s", why)
    return get_backend("reference", **options)

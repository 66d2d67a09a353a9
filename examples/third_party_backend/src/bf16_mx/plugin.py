"""What bf16-mx registers with mx-plugin. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mx_plugin.hookspecs import RegisterFactory, hookimpl

if TYPE_CHECKING:
    from mx_plugin.interfaces import Backend

MX_PLUGIN_INTERFACE = (1, 0)


@hookimpl
def mx_register_backends(register: RegisterFactory) -> None:
    """``bf16``: chosen by ``--backend bf16``."""
    register("bf16", _make, summary="weights decoded once, bfloat16 products for every model")


def _make(**options: Any) -> Backend:
    from .backend import Bfloat16Backend

    return Bfloat16Backend(**options)

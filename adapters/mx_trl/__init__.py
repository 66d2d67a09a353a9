"""mx-plugin for TRL and any ``transformers.Trainer``: add one callback.

>>> from mx_trl import MXCallback
>>> trainer = PPOTrainer(..., callbacks=[MXCallback(policy="C", output_dir="runs/x")])  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

__all__ = ["MXCallback", "attach"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import callback

        return getattr(callback, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

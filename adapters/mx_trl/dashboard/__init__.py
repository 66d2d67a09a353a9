"""Is training healthy? A record of every logged step, alert rules, and a live page in a process of its own.

>>> from mx_trl.dashboard import StabilityCallback
>>> trainer = PPOTrainer(..., callbacks=[StabilityCallback()])  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

__all__ = ["StabilityCallback", "register_alert_hook"]


def __getattr__(name: str) -> Any:
    if name == "StabilityCallback":
        from .callback import StabilityCallback

        return StabilityCallback
    if name == "register_alert_hook":
        from .hooks import register_alert_hook

        return register_alert_hook
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

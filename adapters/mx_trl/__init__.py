"""mx-plugin for TRL and any ``transformers.Trainer``: add one callback.

>>> from mx_trl import MXCallback
>>> trainer = PPOTrainer(..., callbacks=[MXCallback(policy="C", output_dir="runs/x")])  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

__all__ = ["MXCallback", "MXProfilerCallback", "RLHFTrainer", "attach", "load_model"]


def __getattr__(name: str) -> Any:
    if name == "RLHFTrainer":
        from .rlhf_trainer import RLHFTrainer

        return RLHFTrainer
    if name == "MXProfilerCallback":
        from .profiler.callback import MXProfilerCallback

        return MXProfilerCallback
    if name == "load_model":
        from .export.load import load_model

        return load_model
    if name in __all__:
        from . import callback

        return getattr(callback, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

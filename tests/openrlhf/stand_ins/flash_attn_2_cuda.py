"""flash-attn's compiled part, which is imported but never called when attention is eager or sdpa."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"flash_attn_2_cuda.{name} was called on a machine without a GPU")

    return refuse

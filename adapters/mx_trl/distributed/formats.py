"""All ranks execute the same formats: one reads the sensitivity matrix, and what each resolved is compared."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mx_plugin.config import MXConfig
from mx_plugin.execution.engine import Engine
from mx_plugin.interfaces import Provider

from .once import read_on_main
from .ranks import Ranks


def shared_provider(ranks: Ranks, config: MXConfig, make: Callable[[MXConfig], Provider]) -> Provider:
    """``make(config)``; of several ranks, the others read the main one's sensitivity matrix, not a file of theirs."""
    if ranks.size == 1 or config.sensitivity_matrix is None:
        return make(config)
    text = read_on_main(ranks, config.sensitivity_matrix)
    if ranks.main:
        return make(config)
    with tempfile.TemporaryDirectory(prefix="mx-matrix-") as folder:
        copy = Path(folder) / Path(config.sensitivity_matrix).name
        copy.write_text(text, encoding="utf-8")
        return make(replace(config, sensitivity_matrix=str(copy)))


def agree_on_formats(ranks: Ranks, engine: Engine) -> None:
    """Raises RanksError where ranks would quantise a layer differently: their gradients would be of other models."""
    if ranks.size == 1:
        return
    flat = {
        f"{role}:{layer} in {phase}": text
        for role, phases in engine.resolved().items()
        for phase, layers in phases.items()
        for layer, text in layers.items()
    }
    ranks.same(
        "the layers' formats",
        flat,
        "give all ranks the same policy file and MX options, and the same version of mx-plugin",
    )
    ranks.same("seeds of stochastic rounding", engine.seed, "give all ranks the same seed")

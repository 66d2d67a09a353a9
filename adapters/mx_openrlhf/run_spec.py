"""What every process of a run must know; it travels with Ray's classes, by pickle."""

from __future__ import annotations

from dataclasses import dataclass

from mx_plugin.config import MXConfig


@dataclass(frozen=True)
class RunSpec:
    """One launch: the configuration, where files go (absolute), and the recipe's command line."""

    config: MXConfig
    output_dir: str
    recipe: str
    flags: tuple[str, ...] = ()
    added_flags: tuple[str, ...] = ()

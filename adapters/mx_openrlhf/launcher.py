"""Run a recipe of OpenRLHF under MX: check, patch on import, hand over the command line."""

from __future__ import annotations

import logging
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from mx_plugin.errors import MXError
from mx_plugin.precision.provider_choice import make_provider

from . import recipe as recipes
from .arguments import Launch, parse
from .errors import LaunchError
from .import_patch import ImportPatcher, Patch
from .run_spec import RunSpec
from .versions import installed_release

log = logging.getLogger(__name__)

_FILES = ("policy", "sensitivity_matrix", "energy_table")
"""Options that may name a file: actors may run in other folders."""


def main(words: Sequence[str]) -> int:
    """Run ``words``; returns 2, with one line that says why, for what cannot be run. A recipe's own exit is its own."""
    try:
        launch = parse(words)
        recipes.refuse(launch.recipe)
        release = installed_release()
        added = recipes.correction_flags(launch.config, launch.recipe, release) if _is_ppo(launch) else ()
        spec = run_spec(launch, added)
        make_provider(spec.config)
        _make_folder(spec.output_dir)
    except MXError as error:
        print(f"mx_openrlhf: {error}", file=sys.stderr)
        return 2
    if added:
        print(
            f"mx_openrlhf: importance correction is on: {' '.join(added)} (--mx.rollout_correction off leaves it out)"
        )
    run(launch, spec)
    return 0


def run(launch: Launch, spec: RunSpec) -> None:
    """Patch what the recipe imports, and run it in this process as ``__main__``.

    Raises:
        LaunchError: the recipe did not import what was to be patched.
    """
    patcher = ImportPatcher(patches_of(launch, spec)).install()
    arguments = sys.argv
    sys.argv = [launch.module, *spec.flags, *spec.added_flags]
    try:
        runpy.run_module(launch.module, run_name="__main__", alter_sys=True)
    finally:
        sys.argv = arguments
        patcher.uninstall()
    if patcher.pending:
        raise LaunchError(
            f"{launch.module} never imported {', '.join(patcher.pending)}: MX was not applied there, so the files in "
            f"{spec.output_dir} do not describe this run"
        )


def run_spec(launch: Launch, added: Sequence[str]) -> RunSpec:
    """What travels to the actors; names of files become absolute."""
    config = launch.config
    named = {option: getattr(config, option) for option in _FILES}
    config = config.merged({o: str(Path(v).resolve()) for o, v in named.items() if v is not None and Path(v).is_file()})
    return RunSpec(
        config=config,
        output_dir=str(Path(launch.output_dir).resolve()),
        recipe=launch.name,
        flags=launch.recipe,
        added_flags=tuple(added),
    )


def _make_folder(folder: str) -> None:
    """Before anything is loaded: a run whose files cannot be written is none."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LaunchError(f"--mx.output_dir {folder} cannot be made: {error}; choose another") from error


def patches_of(launch: Launch, spec: RunSpec) -> dict[str, Patch]:
    """Module -> patch, for the recipe's kind."""
    if _is_ppo(launch):
        from .ray_patches import ray_patches

        return ray_patches(spec)
    from .trainer_patches import trainer_patches

    return trainer_patches(launch.name, spec)


def _is_ppo(launch: Launch) -> bool:
    return launch.name == "train_ppo_ray"

"""``python -m mx_trl.experiments.run``: one training run in a process of its own, into its folder."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from transformers import set_seed

from mx_plugin.errors import MXError
from mx_plugin.experiments.child import end_with_parent
from mx_plugin.experiments.folder import MODEL, write_done

from ..errors import StageError
from ..stages.built import BuiltStage
from ..stages.summary import StageSummary
from .data_order import fix_order, record_order
from .options import build, parse
from .recipe import Recipe
from .redraw import RedrawNoise
from .weights import save_model, weights_sha256


def run(job: Mapping[str, Any], folder: Path) -> StageSummary:
    """Train as ``job`` says; leave the run's files, the final model and ``done.json`` in ``folder``.

    Raises:
        StageError: the recipe does not fit, or its model is not the one that the experiment was planned with.
    """
    began = time.perf_counter()
    recipe = Recipe.from_dict(job["recipe"])
    scratch = folder / "trainer"
    options = parse(recipe, scratch)
    options.training.seed = job["seed"]
    options.mx = replace(options.mx, policy=job["policy"], sensitivity_matrix=None, max_cost=None, **job["options"])
    stage = build(recipe, options, folder)
    start = weights_sha256(stage.policy)
    if start != job["start"]["sha256"]:
        raise StageError(
            f"{stage.model_path} is not the model that the experiment was planned with: its weights' SHA-256 is "
            f"{start[:12]}..., planned {job['start']['sha256'][:12]}...; put that model back, or give another --output"
        )
    fix_order(stage.trainer, job["seed"])
    record_order(stage.trainer, folder)
    if stage.callback is not None:
        stage.trainer.add_callback(RedrawNoise(stage.callback))
    if job.get("sampling_seed") is not None:
        set_seed(job["sampling_seed"])
    summary = stage.train()
    print(summary, flush=True)
    save_model(stage.policy, stage.trainer.processing_class, folder / MODEL)
    _collect(stage, folder, scratch)
    write_done(
        folder,
        seconds=round(time.perf_counter() - began, 3),
        steps=summary.steps,
        summary=_in_words(summary),
        train_seconds=round(summary.seconds, 3),
        start_sha256=start,
        final_sha256=weights_sha256(stage.policy),
    )
    return summary


def _collect(stage: BuiltStage, folder: Path, scratch: Path) -> None:
    """The callback's ``policy_<name>/`` becomes the run's folder itself; the trainer's own files are not kept."""
    written = stage.callback.run_dir if stage.callback is not None else None
    if written is None:
        raise StageError("the run wrote no files: training ended before it began")
    for file in sorted(written.iterdir()):
        file.rename(folder / file.name)
    written.rmdir()
    shutil.rmtree(scratch, ignore_errors=True)


def _in_words(summary: StageSummary) -> str:
    if not summary.rewards:
        return f"{summary.steps} steps"
    return f"{summary.steps} steps, reward {summary.rewards[0]:.3f} -> {summary.rewards[-1]:.3f}"


def main(words: list[str]) -> int:
    """``run.py <folder>``, which holds ``job.json``; an expected error is one line and status 2."""
    end_with_parent()
    folder = Path(words[0])
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    try:
        run(job, folder)
    except MXError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

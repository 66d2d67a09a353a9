"""One ``train()`` of a stage: its folder, its logs, its checkpoints, and where it goes on from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ..versions import installed_versions
from .files import RunFiles
from .reporters import tensorboard_to
from .supplement import Supplement
from .time_limit import TimeLimit
from .train_log import TrainLog

if TYPE_CHECKING:
    from ..callback import MXCallback
    from ..observer import Observer

_PACKAGES = ("mx-plugin", "torch", "transformers", "trl", "accelerate", "peft", "datasets", "numpy")


MakeObserver = Callable[[Path | None], "Observer"]
"""Makes an observer. Where there is no MXCallback, it is given the folder for the run's files."""


@dataclass
class RunOptions:
    """What a stage has beyond its trainer's own arguments.

    ``max_minutes``: train no longer than that. ``described``: its other arguments for config.json, dataclasses by name.
    ``observers``: make what observes training.
    """

    max_minutes: float | None = None
    described: dict[str, Any] = field(default_factory=dict)
    observers: list[MakeObserver] = field(default_factory=list)


@dataclass
class Run:
    """A run in progress: its files, the checkpoint that it goes on from, and whether it was stopped early."""

    files: RunFiles
    resume: Path | None
    limit: TimeLimit | None
    observers: list[TrainerCallback] = field(default_factory=list)

    @property
    def stopped_by(self) -> str | None:
        """What ended it before its last step, with a checkpoint: the clock, or an alert."""
        if self.limit is not None and self.limit.stopped:
            return "--max_minutes"
        rules = [rule for one in self.observers if (rule := getattr(one, "stopped_by", None)) is not None]
        return f"alert {rules[0]}" if rules else None


@contextmanager
def running(trainer: Any, stage: str, callback: MXCallback | None, options: RunOptions) -> Iterator[Run]:
    """Lay out ``<output_dir>/{config.json, logs/, tb/, checkpoints/}`` and give the trainer what writes them.

    While it lasts the trainer's ``output_dir`` is ``checkpoints/``. A run that does not resume sets an earlier run's
    files aside.

    Raises:
        CheckpointError: no checkpoint where one was asked for, a limit that is not positive, or files that cannot be
            written.
    """
    args = trainer.args
    output_dir = args.output_dir
    files = RunFiles(Path(output_dir))
    resume = files.find(args.resume_from_checkpoint)
    limit = None if options.max_minutes is None else TimeLimit(options.max_minutes)
    added: list[TrainerCallback] = [TrainLog(files), *([limit] if limit is not None else [])]
    added += [make(files.path if callback is None else None) for make in options.observers]
    supplement = None if hasattr(trainer, "saves_all") else Supplement(trainer, resume)
    with trainer.accelerator.main_process_first():
        if trainer.accelerator.is_main_process:
            if resume is None or resume.resolve().parent != files.checkpoints.resolve():
                files.set_aside()
            files.write_config(_config(trainer, stage, callback, options, resume))
    args.output_dir = str(files.checkpoints)
    tensorboard_to(trainer, files.tensorboard)
    for one in added:
        trainer.add_callback(one)
    if supplement is not None:
        trainer.callback_handler.callbacks.insert(0, supplement)  # before all that read the log
        added.append(supplement)
    try:
        yield Run(files, resume, limit, added)
    finally:
        args.output_dir = output_dir
        for one in added:
            trainer.remove_callback(one)


def _config(
    trainer: Any, stage: str, callback: MXCallback | None, options: RunOptions, resume: Path | None
) -> dict[str, Any]:
    return {
        "stage": stage,
        "seed": trainer.args.seed,
        "resumed_from": None if resume is None else str(resume),
        "max_minutes": options.max_minutes,
        "mx": None if callback is None else callback.config.to_dict(),
        **{name: asdict(part) for name, part in options.described.items()},
        "training": trainer.args.to_dict(),
        "versions": installed_versions(_PACKAGES),
    }

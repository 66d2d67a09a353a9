"""Where a stage keeps what: ``<run>/{config.json, logs/, tb/, checkpoints/}``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .supplement import STATE

log = logging.getLogger(__name__)

AUTO = "auto"


@dataclass(frozen=True)
class RunFiles:
    """The paths of one run under its folder."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """``checkpoint-<step>`` folders and, once the stage is done, ``final``."""
        return self.path / "checkpoints"

    @property
    def final(self) -> Path:
        """The trained model, for ``from_pretrained``."""
        return self.checkpoints / "final"

    @property
    def train_log(self) -> Path:
        """What training did: the same bits for the same seed."""
        return self.path / "logs" / "train.jsonl"

    @property
    def cost_log(self) -> Path:
        """What it took: seconds, joules, bytes."""
        return self.path / "logs" / "costs.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tb"

    @property
    def held_out(self) -> Path:
        """What each example that was kept out of training gave."""
        return self.path / "held_out.json"

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    def find(self, asked: str | bool | None) -> Path | None:
        """The checkpoint that ``--resume_from_checkpoint`` means: a path, or ``auto`` for the newest whole one.

        Raises:
            CheckpointError: a path that is no checkpoint.
        """
        if asked in (None, False, "", "false", "False"):
            return None
        if asked in (True, AUTO, "true", "True"):
            newest = max(self._whole(), key=_step, default=None)
            if newest is None:
                log.info("no checkpoint in %s yet: training begins at step 0", self.checkpoints)
            return newest
        folder = Path(str(asked))
        if not (folder / "trainer_state.json").is_file():
            raise CheckpointError(
                f"--resume_from_checkpoint {asked}: no checkpoint there (trainer_state.json is missing); "
                f"give a folder checkpoint-<step>, or {AUTO} for the newest in {self.checkpoints}"
            )
        return folder

    def _whole(self) -> list[Path]:
        found = []
        for folder in self.checkpoints.glob("checkpoint-*"):
            if (folder / f"{STATE}.json").is_file() and folder.name.removeprefix("checkpoint-").isdigit():
                found.append(folder)
            else:
                log.warning("%s is not a whole checkpoint and is passed over", folder)
        return found

    def set_aside(self) -> None:
        """A new run begins here: what an earlier one left is renamed ``<name>.1``, ``.2``, ..., never overwritten.

        Raises:
            CheckpointError: it cannot be renamed.
        """
        old = [
            p
            for p in (self.checkpoints, self.train_log.parent, self.tensorboard, self.config, self.held_out)
            if _holds(p)
        ]
        if not old:
            return
        taken = [int(p.suffix[1:]) for p in self.path.iterdir() if p.suffix[1:].isdigit()]
        number = max(taken, default=0) + 1
        try:
            for path in old:
                path.rename(path.with_name(f"{path.name}.{number}"))
        except OSError as error:
            raise CheckpointError(f"cannot set the earlier run in {self.path} aside: {error}") from error
        log.info("%s already held a run; its files were kept as <name>.%d", self.path, number)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.json: the resolved options of the run.

        Raises:
            CheckpointError: it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.config.write_text(json.dumps(config, indent=2, default=str) + "\n", encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"cannot write {self.config}: {error}; choose another --output_dir") from error


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))


def _holds(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))

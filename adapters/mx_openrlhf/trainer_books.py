"""The run folder of SFT, reward model and DPO: written by rank 0, work and joules summed over ranks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from mx_plugin.ledger import EnergyRow, RunFolder, closing_table
from mx_plugin.ledger.folder import EXTRA_METRICS
from mx_plugin.ledger.rows import ALL

from .process import MXProcess, merged_rows
from .run_spec import RunSpec
from .status import CORRECTION_COLUMNS, standard_metrics
from .versions import installed_versions

log = logging.getLogger(__name__)


class TrainerBooks:
    """Lives for one ``fit()``: adopts the models, books each step, checks the hits, restores.

    Args:
        spec: the launch.
        strategy: OpenRLHF's; it knows the seed and the rank.
        models: role -> plain model.
    """

    def __init__(self, spec: RunSpec, strategy: Any, models: Mapping[str, nn.Module]) -> None:
        self.spec = spec
        self.roles = tuple(models)
        self.main = bool(strategy.is_rank_0())
        self.process = MXProcess(spec.config, models, seed=int(strategy.args.train.seed))
        self.step = 0
        self.rows: list[EnergyRow] = []
        self.folder: RunFolder | None = None

    def __enter__(self) -> TrainerBooks:
        try:
            self._open_folder()
        except BaseException:
            self.process.close()
            raise
        return self

    def _open_folder(self) -> None:
        if not self.main:
            return
        described = self.process.engine.provider.describe()
        name = str(described.get("name") or Path(self.spec.config.policy).stem)
        self.folder = RunFolder(self.spec.output_dir, name, extra_metrics=(*EXTRA_METRICS, *CORRECTION_COLUMNS))
        self._write_config()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            rows = self.process.ledger.stop(self.step + 1)
            if error is None:
                self._book(over_ranks(rows))
                self._write_config()
                self.process.expected.update((role, self._trained_phase(role)) for role in self.roles if self.step)
                self.process.check_hits()
                log.info("\n%s", closing_table(self.rows, self.process.ledger.reasons, None))
            else:
                # Other ranks may be gone: nothing is summed over them any more.
                self._book(rows)
                log.warning("training ended after step %d with %s: %s", self.step, type(error).__name__, error)
        finally:
            self.process.close()
            if self.folder is not None:
                self.folder.close()

    @staticmethod
    def _trained_phase(role: str) -> str:
        return "reward" if role == "reference" else "gradient"

    def step_ended(self, step: int, logs: dict[str, Any]) -> None:
        """A step of the optimiser has ended: book it, and put our numbers into what the trainer logs."""
        first = self.step == 0
        self.step = step
        rows = over_ranks(self.process.step_ended(step))
        self._book(rows)
        ours = {f"mx/{row.phase}/seconds": row.seconds for row in rows if row.seconds is not None}
        logs.update(ours)
        if self.folder is not None:
            numbers = {key: value for key, value in logs.items() if isinstance(value, int | float)}
            self.folder.write_log({"step": step, **numbers})
            self.folder.write_metrics(step, {**standard_metrics(numbers), "seconds": sum(ours.values())})
        if first:
            self.process.check_hits()
        self.process.rest()

    def _book(self, rows: list[EnergyRow]) -> None:
        self.rows.extend(rows)
        if self.folder is not None:
            self.folder.write_energy(rows)

    def _write_config(self) -> None:
        if self.folder is None:
            return
        spec = self.spec
        self.folder.write_config(
            {
                "mx": spec.config.to_dict(),
                **self.process.describe(),
                "world_size": world_size(),
                "recipe": {"module": spec.recipe, "flags": list(spec.flags), "added": []},
                "versions": installed_versions(),
            }
        )


def world_size() -> int:
    """Ranks of this run."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def over_ranks(rows: list[EnergyRow]) -> list[EnergyRow]:
    """Work and joules summed over ranks; seconds stay this rank's, since ranks run at the same time. Collective."""
    if world_size() == 1:
        return rows
    everyone: list[list[EnergyRow]] = [[] for _ in range(world_size())]
    torch.distributed.all_gather_object(everyone, [row for row in rows if row.role != ALL])
    return [row for row in rows if row.role == ALL] + merged_rows([row for of_rank in everyone for row in of_rank])

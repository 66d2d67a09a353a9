"""The books of one run: windows and meters, the run folder's files, and the trainer's own log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mx_plugin.errors import LedgerError
from mx_plugin.execution.hits import Hits, sum_hits
from mx_plugin.execution.phases import EVAL
from mx_plugin.interfaces import Meter
from mx_plugin.ledger import EnergyRow, Ledger, RunFolder, closing_table, sum_over_ranks, summarise
from mx_plugin.plugins import get_meter

from .distributed.rank_file import RankFile
from .metrics import standard_metrics
from .versions import installed_versions

if TYPE_CHECKING:
    from transformers import TrainerState

    from .session import Session

log = logging.getLogger(__name__)

_PACKAGES = ("mx-plugin", "torch", "transformers", "trl", "accelerate", "peft", "numpy")


class Books:
    """Everything that a run writes down, summed over its ranks. Files exist on the main process only."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.ledger = Ledger(self._make_meters(), session.engine.collect)
        self.folder: RunFolder | None = None
        self.rank_file: RankFile | None = None
        self.unread: list[str] = []
        """Meters that another rank of this machine reads."""
        self._hits: Hits | None = None
        self.measured: dict[str, float] = {}
        """Measured in the step in progress, by key in the trainer's log."""
        self.latest: dict[str, float] = {}
        """Our numbers of the last step that ended; what was not measured in it is not there."""
        self.standard: dict[str, float] = {}
        """The trainer's own numbers in its last log, by column of metrics.csv."""
        self.step = 0
        """Training steps completed."""
        self.rows: list[EnergyRow] = []
        self.rewards: list[float] = []
        self.conclusions: list[str] = []
        """What backends have to say of the run, once it is over."""
        self._warned: set[str] = set()

    def _make_meters(self) -> list[Meter]:
        config = self.session.config
        meters = []
        for name in config.meters:
            options: dict[str, Any] = {}
            if name == "modelled":
                options = {"target": config.energy_target, "table": config.energy_table}
            meter = get_meter(name, **{**options, **config.options_by_meter().get(name, {})})
            if meter.scope == "machine" and not self.session.ranks.first_of_machine:
                self.unread.append(name)  # its joules would be counted once a rank
                meter.close()
                continue
            meters.append(meter)
        return meters

    # ------------------------------------------------------------------ the run folder

    @property
    def run_dir(self) -> Path | None:
        return self.folder.path if self.folder is not None else None

    def open_folder(self, resumed_step: int) -> RunFolder:
        """Make ``<output>/policy_<name>/``; a resumed run continues its files.

        Raises:
            LedgerError: the folder cannot be made or written.
        """
        session = self.session
        output = session.callback.output_dir or session.trainer.args.output_dir
        self.step = resumed_step
        self.folder = RunFolder(output, self._policy_name(), resume_step=resumed_step or None)
        if session.ranks.size > 1:
            self.rank_file = RankFile(self.folder.path, session.ranks.hosts, resumed_step or None)
        self.write_config()
        return self.folder

    def _policy_name(self) -> str:
        described = self.session.engine.provider.describe()
        return str(described.get("name") or Path(self.session.config.policy).stem)

    def write_config(self) -> None:
        """Write config.json as things stand now; nothing before the folder is open.

        Raises:
            LedgerError: it cannot be written.
        """
        if self.folder is None:
            return
        session, engine = self.session, self.session.engine
        self.folder.write_config(
            {
                "mx": session.config.to_dict(),
                "provider": dict(engine.provider.describe()),
                "formats": engine.resolved(),
                "gradient_products": engine.gradient_products(),
                "unquantised": _unquantised_dtypes(engine.layers),
                "left_out": [vars(item) for item in engine.left_out],
                **({"released": engine.releases.describe()} if session.config.release_frozen else {}),
                **({"rollout": session.vllm.describe()} if session.vllm is not None else {}),
                "hits": self._hits or engine.hits(),
                "ranks": session.ranks.describe(),
                "unbooked": [dict(zip(("role", "phase", "layer"), place, strict=True)) for place in engine.unbooked()],
                "phases": {"logprobs_of_policy": session.roles.logprob_phase, "scoring": engine.policy_scoring},
                "backend": engine.backend.name,
                "backends": [dict(backend.describe()) for backend in engine.backends.all()],
                "meters": self.ledger.describe_meters(),
                "seed": engine.seed,
                "versions": installed_versions(_PACKAGES),
            }
        )

    # ------------------------------------------------------------------ steps and logs

    def close_step(self, step: int) -> None:
        """Book what ran since the last step ended; idempotent per step."""
        if step <= self.step:
            return
        self.step = step
        ledgers, measured = self._of_all(f"the end of step {step}", self._with_vllm(self.ledger.step_end(step), step))
        self.latest, self.measured = measured, {}
        self._book(ledgers)

    def _with_vllm(self, rows: list[EnergyRow], step: int) -> list[EnergyRow]:
        """What vLLM multiplied for this rank stands beside what this process did."""
        vllm = self.session.vllm
        return rows if vllm is None else [*rows, *vllm.rows(step)]

    def _of_all(self, what: str, rows: list[EnergyRow]) -> tuple[list[list[EnergyRow]], dict[str, float]]:
        """Every rank's rows, and the means of what ranks measured."""
        told = self.session.ranks.gather(what, (rows, self.measured))
        values: dict[str, list[float]] = {}
        for _, measured in told:
            for key, value in measured.items():
                values.setdefault(key, []).append(value)
        return [rows for rows, _ in told], {key: sum(found) / len(found) for key, found in values.items()}

    def _book(self, ledgers: list[list[EnergyRow]]) -> None:
        rows = ledgers[0] if len(ledgers) == 1 else sum_over_ranks(ledgers)
        if self.rank_file is not None and len(ledgers) > 1:
            self.rank_file.write(ledgers)
        self.rows.extend(rows)
        for phase, total in summarise(rows).items():
            if total.seconds is not None:
                self.latest[f"mx/{phase}/seconds"] = total.seconds
            if total.bytes:
                self.latest[f"mx/{phase}/gbytes"] = total.bytes / 1e9
            if total.macs:
                self.latest[f"mx/{phase}/gmacs"] = sum(total.macs.values()) / 1e9
            for source, joules in total.joules.items():
                if joules.joules is not None:
                    self.latest[f"mx/{phase}/joules/{source}"] = joules.joules
        if self.folder is not None:
            self.folder.write_energy(rows)

    def logged(self, state: TrainerState, logs: dict[str, Any]) -> None:
        """Merge our keys into the trainer's log dict (in place: every reporter sees them) and write ours."""
        if not any(key.startswith("eval") for key in logs):
            self.close_step(state.global_step)
        logs.update(self.latest)
        if state.log_history:
            state.log_history[-1].update(self.latest)
        if self.folder is None:
            return
        record = {"step": state.global_step, **{k: v for k, v in logs.items() if isinstance(v, int | float)}}
        self.folder.write_log(record)
        found = standard_metrics(logs)
        if found:
            self.standard = found
            if "reward" in found:
                self.rewards.append(found["reward"])
            self.folder.write_metrics(state.global_step, {**found, **self._own_columns()})
            self._tell(state.global_step, found)

    def _own_columns(self) -> dict[str, float]:
        names = {"mismatch": "mx/mismatch/mean_abs_logratio", "kl_unquantised": "mx/kl_unquantised"}
        columns = {column: self.latest[key] for column, key in names.items() if key in self.latest}
        columns["seconds"] = sum(
            value for key, value in self.latest.items()
            if key.endswith("/seconds") and not key.startswith(f"mx/{EVAL}")
        )  # fmt: skip
        return columns

    def _tell(self, step: int, found: Mapping[str, float]) -> None:
        log.info("step %d: %s", step, ", ".join(f"{name} {value:.4g}" for name, value in found.items()))

    def warn_once(self, topic: str, message: str) -> None:
        """A warning that would otherwise repeat every step."""
        if topic not in self._warned:
            self._warned.add(topic)
            log.warning("%s", message)

    # ------------------------------------------------------------------ end

    def finish(self) -> None:
        """``train()`` is over: book the rest under the step that never ended, write the final config."""
        last = self.step + 1
        self._book(self._of_all("the end of train()", self._with_vllm(self.ledger.stop(last), last))[0])
        self._hits = sum_hits(self.session.ranks.gather("counting all hits", self.session.engine.hits()))
        accelerator = getattr(self.session.trainer, "accelerator", None)
        if self.folder is None and getattr(accelerator, "is_main_process", True):
            # A train() that never fired on_train_begin: its files are made of what was booked.
            self.open_folder(0).write_energy(self.rows)
        self.write_config()
        self._tell_of_unbooked_work()
        self._conclude()
        log.info("\n%s", self.summary())

    def _tell_of_unbooked_work(self) -> None:
        places = [f"{role}:{name} in {phase}" for role, phase, name in self.session.engine.unbooked()]
        if places:
            log.info(
                "unquantised and never executed as layers (a fused head reads the weight itself), so their work is "
                "missing from energy.csv: %s", ", ".join(places[:8]) + (" ..." if len(places) > 8 else ""),
            )  # fmt: skip

    def _conclude(self) -> None:
        told = ((backend.name, backend.conclusion()) for backend in self.session.engine.backends.all())
        self.conclusions = [f"{name}: {conclusion}" for name, conclusion in told if conclusion]

    def abandon(self, error: BaseException) -> None:
        """``train()`` raised: keep what was booked, and let nothing of ours hide the error."""
        try:
            last = self.step + 1
            self._book([self._with_vllm(self.ledger.stop(last), last)])  # alone: other ranks may be gone
            self.write_config()
            self._conclude()
            for conclusion in self.conclusions:
                log.info("%s", conclusion)
        except Exception:
            log.exception("the books could not be completed after an error in training")
        log.warning("training ended after step %d with %s: %s", self.step, type(error).__name__, error)
        try:
            if self.folder is not None:
                self.folder.close()  # which ``close`` then finds done: rows lost to a full disk are no new error
            if self.rank_file is not None:
                self.rank_file.close()
        except LedgerError as lost:
            log.warning("%s", lost)

    def close(self) -> None:
        """Close meters and files.

        Raises:
            LedgerError: rows could not be written to the end.
        """
        self.ledger.close()
        if self.rank_file is not None:
            self.rank_file.close()
        if self.folder is not None:
            self.folder.close()

    def summary(self) -> str:
        """The closing table, and what backends have to say."""
        reward = (self.rewards[0], self.rewards[-1]) if self.rewards else None
        return "\n".join((closing_table(self.rows, self.ledger.reasons, reward), *self.conclusions))


def _unquantised_dtypes(layers: Any) -> list[str]:
    """How ``FP16`` reads in this run: the dtypes of the adopted weights."""
    return sorted({f"FP16[{str(layer.weight.dtype).removeprefix('torch.')}]" for layer in layers})

"""One run folder for all Ray actors: wall time by the controller, work by each actor, rollouts from token counts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import ray

from mx_plugin.errors import UnhitLayersError
from mx_plugin.formats.spec import FP16, is_unquantised
from mx_plugin.ledger import EnergyRow, Ledger, RunFolder, closing_table
from mx_plugin.ledger.folder import EXTRA_METRICS
from mx_plugin.ledger.rows import ALL
from mx_plugin.precision.fused import BY_ENGINE, WEIGHTS_ONLY, booked_format, weights_only
from mx_plugin.precision.provider_choice import make_provider

from .process import merged_rows
from .run_spec import RunSpec
from .status import CORRECTION_COLUMNS, standard_metrics
from .versions import installed_versions

log = logging.getLogger(__name__)

GROUPS = {
    "policy": "actor_model_group",
    "value": "critic_model_group",
    "reference": "reference_model_group",
    "reward": "reward_model_group",
}
"""Role -> attribute of OpenRLHF's trainer."""


class Gathering:
    """Lives for one ``fit()`` of OpenRLHF's ``PPOTrainer``, in its process.

    Args:
        spec: the launch.
        trainer: OpenRLHF's trainer, with its actor groups and vLLM engines.
    """

    def __init__(self, spec: RunSpec, trainer: Any) -> None:
        self.spec = spec
        self.trainer = trainer
        self.groups = {role: group for role, name in GROUPS.items() if (group := getattr(trainer, name, None))}
        self.engines: Sequence[Any] = trainer.vllm_engines or []
        self.step = 0
        self.rows: list[EnergyRow] = []
        self.rewards: list[float] = []
        self.rollout: dict[str, Any] = {}
        self._tokens = 0
        self.ledger = Ledger([], list)
        config = spec.config
        described = make_provider(config).describe()
        self.folder = RunFolder(
            spec.output_dir,
            str(described.get("name") or Path(config.policy).stem),
            extra_metrics=(*EXTRA_METRICS, *CORRECTION_COLUMNS),
        )

    # ------------------------------------------------------------------ begin and end

    def __enter__(self) -> Gathering:
        self.policy_layers: dict[str, tuple[str, int]] = self._ask_one("policy", "mx_layers")
        self.check_rollout_weights("mx_report_of_loading")
        self._check_names()
        self._write_config()
        self._phases_of_trainer()
        self.ledger.start("other")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._book(self.ledger.stop(self.step + 1))
            if error is None:
                self._book(self._actors_rows(self.step + 1))
                self._write_config()
                self._check_hits()
                rewards = (self.rewards[0], self.rewards[-1]) if self.rewards else None
                log.info("\n%s", closing_table(self.rows, self.ledger.reasons, rewards))
            else:
                log.warning("training ended after step %d with %s: %s", self.step, type(error).__name__, error)
        finally:
            self.ledger.close()
            self.folder.close()

    def _phases_of_trainer(self) -> None:
        """Generation and scoring are calls of the trainer's helpers; the rest it does itself."""
        for holder, method, phase in (
            (self.trainer.samples_generator, "generate_samples", "rollout"),
            (self.trainer.samples_generator, "generate_eval_samples", "eval/rollout"),
            (self.trainer.experience_maker, "make_experience_batch", "reward"),
        ):
            setattr(holder, method, self._timed(getattr(holder, method), phase))

    def _timed(self, function: Any, phase: str) -> Any:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(phase):
                return function(*args, **kwargs)

        return timed

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The run's wall time belongs to ``name`` for the duration."""
        before = self.ledger.phase or "other"
        self.ledger.switch(name)
        try:
            yield
        finally:
            self.ledger.switch(before)

    # ------------------------------------------------------------------ rollouts

    def check_rollout_weights(self, report_of: str = "mx_report") -> None:
        """Ask every vLLM worker whether all its weights lie on their grids: before the first rollout and after a sync.

        Raises:
            UnhitLayersError: weights are off the grid of their format.
        """
        reports = [report for of_engine in self._ask(self.engines, report_of) for report in of_engine]
        for number, report in enumerate(reports):
            if report["off_grid"]:
                raise UnhitLayersError(
                    f"vLLM worker {number} holds weights off the grid of their rollout format, or not those sent, "
                    f"after sync {report['synced']}: {', '.join(report['off_grid'][:5])}"
                )
        if reports:
            kept = ("formats", "projected", "siblings", "own", "synced")
            self.rollout = {name: reports[0][name] for name in kept}

    def _check_names(self) -> None:
        """Each layer of the policy that rolls out quantised must be one that vLLM rounds.

        Raises:
            UnhitLayersError: vLLM knows a layer by another name, or as another kind of module.
        """
        held = {name for siblings in self.rollout.get("siblings", {}).values() for name in siblings}
        quantised = [name for name, (fmt, _) in self.policy_layers.items() if not is_unquantised(fmt)]
        lost = [name for name in quantised if name not in held]
        if lost and self.engines:
            raise UnhitLayersError(
                f"{len(lost)} layers of the policy have a rollout format but no linear module of that name in vLLM: "
                f"{', '.join(lost[:5])}; exclude them in the policy"
            )

    def rolled_out(self, samples: Sequence[Any]) -> None:
        """Count the tokens that vLLM processed for these samples, prompts once per sample."""
        self._tokens += sum(int(sample.attention_mask.sum()) for sample in samples)

    def _rollout_rows(self, step: int) -> list[EnergyRow]:
        """What vLLM multiplied since the last step, from the tokens: rounded weights and unquantised activations where
        it does not execute a format of its own.

        Batching, attention and what samples share (prefix caching) are not known here: bytes and joules are unknown.
        """
        tokens, self._tokens = self._tokens, 0
        by_format = sorted(self._macs_by_format().items()) if tokens else []
        return [EnergyRow(step, "rollout", "policy", fmt, "bfloat16", macs=tokens * macs) for fmt, macs in by_format]

    def _macs_by_format(self) -> dict[str, int]:
        """MACs per token by format, as vLLM holds the weights."""
        held = held_formats(self.rollout) if self.rollout else {}
        own = own_pairs(self.rollout) if self.rollout else {}
        total: dict[str, int] = {}
        for name, (_, macs) in self.policy_layers.items():
            label = booked_format(held.get(name, FP16), own.get(name, ""))
            total[label] = total.get(label, 0) + macs
        return total

    # ------------------------------------------------------------------ steps

    def step_ended(self, step: int, status: dict[str, Any]) -> None:
        """Book the step, write its metrics, and put ours into what OpenRLHF logs."""
        first = self.step == 0
        self.step = step
        rows = self.ledger.step_end(step)
        self._book([*rows, *self._rollout_rows(step), *self._actors_rows(step)])
        ours = {f"mx/{row.phase}/seconds": row.seconds for row in rows if row.seconds is not None}
        status.update(ours)
        numbers = {key: value for key, value in status.items() if isinstance(value, int | float)}
        self.folder.write_log({"step": step, **numbers})
        found = standard_metrics(numbers)
        if "reward" in found:
            self.rewards.append(found["reward"])
        self.folder.write_metrics(step, {**found, "seconds": sum(ours.values())})
        log.info("step %d: %s", step, ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
        if first:
            self._check_hits()
            self._write_config()

    def _actors_rows(self, step: int) -> list[EnergyRow]:
        """What the actors executed, summed over ranks. Their own seconds, which overlap, are dropped."""
        handles = [handle for group in self.groups.values() for handle in group._actor_handlers]
        rows = [row for rows in self._ask(handles, "mx_step_ended", step) for row in rows]
        return merged_rows([row for row in rows if row.role != ALL])

    def _book(self, rows: Sequence[EnergyRow]) -> None:
        self.rows.extend(rows)
        self.folder.write_energy(rows)

    def _check_hits(self) -> None:
        for group in self.groups.values():
            self._ask(group._actor_handlers, "mx_check_hits")

    # ------------------------------------------------------------------ actors

    def _ask(self, handles: Sequence[Any], method: str, *args: Any) -> list[Any]:
        answers: list[Any] = ray.get([getattr(handle, method).remote(*args) for handle in handles])
        return answers

    def _ask_one(self, role: str, method: str) -> Any:
        (answer,) = self._ask(self.groups[role]._actor_handlers[:1], method)
        return answer

    def _write_config(self) -> None:
        actors = {role: self._ask_one(role, "mx_describe") for role in self.groups}
        self.folder.write_config(config_record(self.spec, actors, self.rollout, self._world_sizes()))

    def _world_sizes(self) -> dict[str, int]:
        return {role: len(group._actor_handlers) for role, group in self.groups.items()}


def config_record(
    spec: RunSpec, actors: Mapping[str, Any], rollout: Mapping[str, Any], world_sizes: Mapping[str, int]
) -> dict[str, Any]:
    """Plain data for config.json: one set of tables over all actors, each role's from its rank 0."""
    first = next(iter(actors.values()))
    tables: dict[str, Any] = {
        name: {role: table for described in actors.values() for role, table in described[name].items()}
        for name in ("formats", "hits")
    }
    lists = {
        name: [item for described in actors.values() for item in described[name]] for name in ("left_out", "unbooked")
    }
    execution = f"{WEIGHTS_ONLY}, {BY_ENGINE}" if rollout.get("own") else WEIGHTS_ONLY
    vllm = {"engine": "vllm", "execution": execution, **rollout} if rollout else {}
    _rollouts_as_executed(tables["formats"], rollout)
    return {
        "mx": spec.config.to_dict(),
        "provider": first["provider"],
        **tables,
        **lists,
        "rollout": vllm,
        "unquantised": sorted({name for described in actors.values() for name in described["unquantised"]}),
        "gradient_products": {role: described["gradient_products"] for role, described in actors.items()},
        "backend": {role: described["backend"] for role, described in actors.items()},
        "world_sizes": dict(world_sizes),
        "meters": first["meters"],
        "seed": first["seed"],
        "recipe": {"module": spec.recipe, "flags": list(spec.flags), "added": list(spec.added_flags)},
        "versions": installed_versions(),
    }


def _rollouts_as_executed(formats: dict[str, Any], rollout: Mapping[str, Any]) -> None:
    """Only the policy rolls out, and with what vLLM holds: not with what was asked for."""
    for role, phases in formats.items():
        asked = phases.pop("rollout", {})
        if role == "policy" and rollout:
            held = {layer: weights_only(fmt) for layer, fmt in held_formats(rollout).items()} | own_pairs(rollout)
            phases["rollout"] = {layer: held.get(layer, FP16) for layer in asked}


def held_formats(rollout: Mapping[str, Any]) -> dict[str, str]:
    """Layer of the plain model -> format of the module of vLLM that holds it."""
    return {
        sibling: rollout["formats"].get(module, FP16)
        for module, siblings in rollout["siblings"].items()
        for sibling in siblings
    }


def own_pairs(rollout: Mapping[str, Any]) -> dict[str, str]:
    """Layer of the plain model -> the pair in which vLLM executes it by itself, where it does."""
    return {
        sibling: told["pair"]
        for module, told in rollout.get("own", {}).items()
        for sibling in rollout["siblings"][module]
    }

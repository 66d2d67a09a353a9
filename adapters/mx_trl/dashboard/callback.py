"""``StabilityCallback``: writes down whether training is healthy, and acts on alert rules."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from ..critic_metrics import critic_metrics
from ..observer import Observer
from ..roles import find_roles
from ..train_wrap import held_callback
from .actions import agreed, call_hooks, pause, tell
from .columns import columns_of, not_finite
from .drift import Drift
from .files import StabilityFiles
from .format_mix import format_mix
from .gradients import GradientNorms
from .hooks import hooks_of
from .rules import Rule, described, load_rules
from .scores import Scores, observed_scores
from .stopping import heeding_stops
from .watch import Watch

log = logging.getLogger("mx_trl.dashboard")


class StabilityCallback(Observer):
    """Write ``stability.jsonl`` and ``alerts.jsonl`` of any trainer, with an MXCallback or without one.

    ``PPOTrainer(..., callbacks=[StabilityCallback()])`` is all there is to do; ``mx-plugin dashboard RUN`` shows the
    files while the run goes on. Training draws the same numbers with it and without it.

    Args:
        alerts: a YAML file of rules; None for the built-in ones.
        output_dir: where the files go; default: the run folder of the trainer's MXCallback, else the trainer's
            ``output_dir``.
        drift: whether to measure how far each layer has moved (:class:`~mx_trl.dashboard.drift.Drift`).

    Raises:
        AlertError: the rules cannot be read, or name a hook that nobody registered.
    """

    def __init__(
        self, alerts: str | Path | None = None, *, output_dir: str | Path | None = None, drift: bool = True
    ) -> None:
        super().__init__()
        self.rules = load_rules(alerts)
        self.output_dir = output_dir
        self.stopped_by: str | None = None
        """The rule that stopped the last ``train()`` early, or None."""
        self._hooks = hooks_of(self.rules)
        self._with_drift = drift
        self._acts = any({"pause", "stop"} & set(rule.action) for rule in self.rules)
        self._files: StabilityFiles | None = None
        self._trainer: Any = None
        self._pause: Rule | None = None
        self._booked = 0

    @contextmanager
    def observing(self, trainer: Any) -> Iterator[None]:
        """See :class:`~mx_trl.observer.Observer`; the weights of now are what drift is measured from."""
        models = find_roles(trainer).models
        trained = {r: m for r, m in models.items() if r in ("policy", "value") or (r == "reward" and len(models) == 1)}
        self._trainer, self._pause, self._booked, self.stopped_by = trainer, None, 0, None
        self._watch = Watch(self.rules)
        self._gradients, self._scores = GradientNorms(trained), Scores()
        self._drift = Drift(trained) if self._with_drift else None
        self._critic: dict[str, float] = {}
        with ExitStack() as stack:
            stack.callback(self._close)
            stack.enter_context(heeding_stops(trainer))
            stack.enter_context(self._gradients.watching(trainer))
            stack.enter_context(observed_scores(trainer, self._scores))
            if held_callback(trainer) is None:
                stack.enter_context(critic_metrics(trainer, models.get("value"), self._critic.update))
            yield

    @property
    def run_dir(self) -> Path | None:
        """Where the files of the run in progress are, on the main process."""
        return self._files.folder if self._files is not None else None

    def _close(self) -> None:
        if self._files is not None:
            self._files.close()
        self._trainer = self._files = None

    # ------------------------------------------------------------------ events

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        self._files = StabilityFiles(self._folder(args), state.global_step)
        self._files.write_rules(described(self.rules))
        for record in self._files.records():  # what rules remember of a run that goes on
            self._watch.check(int(record["step"]), _numbers(record), record.get("not_finite", ()))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._trainer is None or not logs or "train_runtime" in logs or any(k.startswith("eval") for k in logs):
            return
        values = self._measured(logs)
        bad = not_finite(logs)
        self._show(values, logs, state)
        order = ""
        if self._files is not None:
            self._write(state.global_step, values, bad)
            order = self._judge(state.global_step, values, bad)
        if self._acts:
            self._obey(agreed(order, args.world_size), state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._wait(args, state, control)  # PPO logs before its step ends

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._wait(args, state, control)  # the others log after it

    # ------------------------------------------------------------------ a record

    def _folder(self, args: TrainingArguments) -> Path:
        callback = held_callback(self._trainer)
        if callback is not None and callback.run_dir is not None:
            return callback.run_dir
        return Path(self.output_dir or args.output_dir)

    def _measured(self, logs: Mapping[str, Any]) -> dict[str, float]:
        values = columns_of({**logs, **self._critic, **(found := self._scores.take())})
        if "length" in found:
            values["length"] = found["length"]
            if "kl" in values:
                values["kl_per_token"] = values["kl"] / max(found["length"], 1.0)
        self._critic.clear()
        values |= {f"grad_norm/{role}": norm for role, norm in self._gradients.take().items()}
        if self._drift is not None:
            values |= {f"drift/{layer}": moved for layer, moved in self._drift.measure().items()}
        callback = held_callback(self._trainer)
        if callback is not None and callback.session is not None:
            rows = callback.session.books.rows
            values |= {f"format/{name}": share for name, share in format_mix(rows[self._booked :]).items()}
            self._booked = len(rows)
        return values

    def _show(self, values: Mapping[str, float], logs: dict[str, Any], state: TrainerState) -> None:
        """What the trainer does not log itself, for its reporters."""
        ours = {
            f"mx/stability/{name}": value
            for name, value in values.items()
            if name.startswith("grad_norm/") or name.endswith("/all") or name in ("reward_std", "length")
        }
        logs.update(ours)
        if state.log_history:
            state.log_history[-1].update(ours)

    def _write(self, step: int, values: Mapping[str, float], bad: list[str]) -> None:
        assert self._files is not None
        record: dict[str, Any] = {"step": step, "time": time.time(), **values}
        bad = sorted({*bad, *not_finite(values)})
        self._files.write(record | ({"not_finite": bad} if bad else {}))

    # ------------------------------------------------------------------ alerts

    def _judge(self, step: int, values: Mapping[str, float], bad: list[str]) -> str:
        """Write and tell the alerts of this record; ``stop:RULE``, ``pause:RULE`` or nothing."""
        assert self._files is not None
        found = self._watch.check(step, values, bad)
        for _, alert in found:
            self._files.write_alert(alert)
            tell(alert)
        call_hooks(found, self._hooks)
        for action in ("stop", "pause"):
            for rule, _ in found:
                if action in rule.action:
                    return f"{action}:{rule.name}"
        return ""

    def _obey(self, order: str, state: TrainerState, control: TrainerControl) -> None:
        action, _, name = order.partition(":")
        if state.global_step >= state.max_steps > 0:
            return  # it is the last step anyway
        if action == "stop":
            self._stop(name, state, control)
        elif action == "pause":
            self._pause = next(rule for rule in self.rules if rule.name == name)

    def _stop(self, rule: str, state: TrainerState, control: TrainerControl) -> None:
        self.stopped_by = rule
        control.should_save = control.should_training_stop = True
        if state.is_world_process_zero:
            log.error("rule %s stops training after step %d, with a checkpoint", rule, state.global_step)

    def _wait(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        rule, self._pause = self._pause, None
        if rule is not None and not pause(self.run_dir, rule, state.global_step, args.world_size):
            self._stop(rule.name, state, control)


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in record.items()
        if name not in ("step", "time") and isinstance(value, int | float)
    }

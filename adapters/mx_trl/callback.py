"""``MXCallback``: the one change that a user makes to a TRL script."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mx_plugin.config import MXConfig
from mx_plugin.errors import AdoptionError

from .session import Session
from .train_wrap import wrap_trainers
from .vllm.starting import start_with_own_formats


class MXCallback(TrainerCallback):
    """Run a trainer's linear layers in the formats of a precision policy, and keep the books.

    ``PPOTrainer(..., callbacks=[MXCallback(policy="C", output_dir="runs/x")])`` is all there is to
    do; everything is put back when ``train()`` returns or raises.

    Args:
        config: an :class:`~mx_plugin.config.MXConfig`, or None for the defaults.
        output_dir: where ``policy_<name>/`` is made; default: the trainer's own ``output_dir``.
        **options: fields of MXConfig that override ``config``.

    Raises:
        PolicyError: an option that MXConfig does not have, or a value outside its choices.
    """

    def __init__(self, config: MXConfig | None = None, *, output_dir: str | Path | None = None, **options: Any) -> None:
        self.config = (config or MXConfig()).merged(options, where="MXCallback")
        self.output_dir = output_dir
        self.session: Session | None = None
        self.last_session: Session | None = None
        wrap_trainers()

    @contextmanager
    def running(self, trainer: Any) -> Iterator[Session]:
        """Adopt the trainer's models for one ``train()`` and restore them whatever happens."""
        session = Session(self, trainer)
        with session:
            self.session = self.last_session = session
            try:
                yield session
            finally:
                self.session = None

    @property
    def run_dir(self) -> Path | None:
        """The run's folder, once training has begun on the main process."""
        session = self.session or self.last_session
        return session.books.run_dir if session is not None else None

    def summary(self) -> str:
        """The closing table of the last run: seconds, joules and bytes per phase, reward first -> last."""
        session = self.session or self.last_session
        return session.books.summary() if session is not None else "no run yet"

    # ------------------------------------------------------------------ events

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        model = kwargs.get("model")
        if model is not None:  # TRL makes its vLLM right after
            start_with_own_formats(args, model, self.config)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._running().begin(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._running().step_ended(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.session is not None and logs is not None:  # evaluate() outside train() logs too
            self.session.logged(state, logs)

    def _running(self) -> Session:
        if self.session is None:
            raise AdoptionError(
                "training began without MXCallback having been given its trainer: this trainer does not inherit "
                "transformers.Trainer.train; call mx_trl.attach(trainer, ...) before trainer.train()"
            )
        return self.session


def attach(trainer: Any, config: MXConfig | None = None, **options: Any) -> MXCallback:
    """The explicit form: add an MXCallback to an existing trainer and wrap its ``train``.

    Returns:
        the callback, for its ``summary()`` and ``run_dir``.
    """
    from .train_wrap import wrap_instance

    callback = MXCallback(config, **options)
    trainer.add_callback(callback)
    wrap_instance(trainer)
    return callback

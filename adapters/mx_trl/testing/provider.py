"""Level ``trl`` of a provider: a real training asks it, executes what it answers and tells it real metrics."""

from __future__ import annotations

from dataclasses import replace

from mx_plugin.errors import PolicyError
from mx_plugin.interfaces import Provider
from mx_plugin.testing import PROVIDER, Level, NotApplicable, Suite, demand
from mx_plugin.testing.loads import demand_plain
from mx_plugin.testing.provider import LAYERS, ProviderTrial

from .training import NAME, Describing, Trained, Witness, need_trl, train, unless_it_fails


class ProviderTraining(ProviderTrial):
    """``trained()``: two steps in the formats that it chooses; ``ran`` is the instance that chose them."""

    def trained(self, witness: Witness | None = None) -> Trained:
        """
        Raises:
            NotApplicable: its rules name layers of another model, those that ``options`` told.
        """
        need_trl()
        try:
            return train(self._fresh_to_run, NAME, witness)
        except PolicyError as error:
            if self.layers == LAYERS:
                raise
            raise NotApplicable(f"its rules are for the layers of another model: {error}") from error

    def _fresh_to_run(self) -> Provider:
        self.ran: Provider = self.fresh()
        return self.ran


LEVEL = Level("provider", "trl", "TRL's GRPO takes two steps in the formats that it chooses", ProviderTraining)


@LEVEL.check
def two_steps(trial: ProviderTraining) -> None:
    """Two steps end, with finite losses, and describe() is still plain data."""
    describing = Describing(lambda: trial.ran)
    trial.trained(describing).demand_finite()
    demand_plain(describing.told, "describe() after training")


class _Answers(Witness):
    """What it answers for the policy's rollout as each step begins."""

    def __init__(self, trial: ProviderTraining) -> None:
        self.trial = trial
        self.by_step: list[set[str]] = []
        self._layers: list[str] = []

    def starts(self, model: object) -> None:
        self._layers = [layer.name for layer in LAYERS if layer.role == "policy"]

    def step_begins(self) -> None:
        answers = [self.trial.ran.get_precision(name, "rollout", "policy").forward for name in self._layers]
        self.by_step.append({str(replace(answer, rounding="nearest")) for answer in answers})


@LEVEL.check
def its_answers_are_executed(trial: ProviderTraining) -> None:
    """What the ledger books for each rollout are its answers: it changes none that observe() did not announce."""
    answers = _Answers(trial)
    trained = unless_it_fails(lambda: trial.trained(answers))
    for step, due in enumerate(answers.by_step, 1):
        rows = [row for row in trained.rows if (row.step, row.phase, row.role) == (step, "rollout", "policy")]
        booked = {row.format for row in rows if row.macs and row.format != "attention"}
        demand(
            booked == due,
            f"the rollout of step {step} was executed in {', '.join(sorted(booked))}; asked as the step began, it "
            f"answers {', '.join(sorted(due))}",
            "return True from observe() when answers change",
        )


@LEVEL.check
def random_numbers(trial: ProviderTraining) -> None:
    """Global random numbers are where TRL alone leaves them."""
    unless_it_fails(trial.trained).demand_random_numbers()


PROVIDER_TRAINING = Suite("provider", (LEVEL,), PROVIDER.names, PROVIDER.open)

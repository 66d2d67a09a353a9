"""Level ``trl`` of a backend: TRL's GRPO rolls out, scores and trains on it, by its name."""

from __future__ import annotations

from typing import Any

import torch

from mx_plugin.execution.phases import ROLLOUT, TRACKER
from mx_plugin.formats import quantize
from mx_plugin.formats.spec import FP16
from mx_plugin.interfaces import Backend, Counters
from mx_plugin.testing import BACKEND, Level, Suite, demand
from mx_plugin.testing.backend.trial import BackendTrial
from mx_plugin.testing.loads import demand_plain

from .training import NAME, Describing, Trained, Witness, need_trl, train, unless_it_fails

OBSERVED = "model.layers.1.mlp.down_proj"
UPDATE_PASS = "an update must reach what is multiplied: pack what quantize is handed, trust no version or address"

POLICY = """
version: 1
name: under_test
scale_rule: floor
activations: {activations}
defaults: {{rollout: {pair}, reward: {pair}, gradient: {gradient}}}
"""


class BackendTraining(BackendTrial):
    """``trained()``: two steps, every linear layer but the heads in the backend's first pair."""

    def trained(self, witness: Witness | None = None) -> Trained:
        """``ran`` is then the instance that executed them."""
        need_trl()
        weights, activations = self.pair
        gradient = weights if activations != FP16 else FP16
        policy = POLICY.format(
            pair=f"{weights}/{activations}",
            gradient=gradient,
            activations="MXFP8" if activations == FP16 else activations,
        )
        self.backend.close()  # a board can be opened once
        return train(self.fresh_to_run, policy, witness, backend=NAME)

    def fresh_to_run(self) -> Backend:
        self.ran: Backend = self.fresh()
        return self.ran


LEVEL = Level("backend", "trl", "two steps of TRL's GRPO run on it", BackendTraining)


@LEVEL.check
def two_steps(trial: BackendTraining) -> None:
    """Two steps end: losses are finite, layers executed in rollout, reward and gradient, describe() is still plain."""
    describing = Describing(lambda: trial.ran)
    trained = trial.trained(describing)
    trained.demand_finite()
    demand_plain(describing.told, "describe() after training")
    for role, phase in (("policy", "rollout"), ("reference", "reward"), ("policy", "gradient")):
        demand(trained.hits.get(role, {}).get(phase), f"no layer of the {role} was executed in {phase}")


class _Rollouts(Witness):
    """Keeps what one layer multiplied in the first call of each rollout: (x, y, its weight at that moment)."""

    def __init__(self) -> None:
        self.seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._due = False

    def starts(self, model: Any) -> None:
        model.get_submodule(OBSERVED).register_forward_hook(self._look)

    def step_begins(self) -> None:
        self._due = True

    def _look(self, module: Any, given: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
        if self._due and TRACKER.phase == ROLLOUT:
            self.seen.append((given[0].clone(), y.clone(), module.weight.detach().clone()))
            self._due = False


@LEVEL.check
def current_weights(trial: BackendTraining) -> None:
    """Each rollout multiplies the weights as the optimiser, AdamW in its fused form, has left them."""
    trial.need_formats_values()
    fmt, activations = trial.pair
    rollouts = _Rollouts()
    unless_it_fails(lambda: trial.trained(rollouts))
    for number, (x, y, weight) in enumerate(rollouts.seen, 1):
        what = f"{OBSERVED} in rollout {number}"
        trial.demand_product(y, x, quantize(weight, fmt), activations, what, remedy=UPDATE_PASS if number > 1 else "")
    demand(len(rollouts.seen) > 1, f"{OBSERVED} was executed in {len(rollouts.seen)} of two rollouts")


class _Counting(Witness):
    """Reads the counters while the backend is open."""

    def __init__(self, trial: BackendTraining) -> None:
        self.trial, self.read = trial, Counters()

    def ends(self) -> None:
        self.read = self.trial.ran.counters()


@LEVEL.check
def the_books_agree(trial: BackendTraining) -> None:
    """The MACs that it counts are those of the ledger's rows, but for the training products, which are torch's."""
    pair = "/".join(trial.pair)
    counting = _Counting(trial)
    trained = unless_it_fails(lambda: trial.trained(counting))
    booked = sum(row.macs or 0 for row in trained.rows if row.format == pair and row.phase != "gradient")
    demand(booked == counting.read.macs, f"{counting.read.macs} MACs are counted, the ledger has {booked}")


@LEVEL.check
def training_alone(trial: BackendTraining) -> None:
    """Global random numbers stay TRL's; where nothing is quantised, the trained weights are TRL's bit for bit."""
    unless_it_fails(trial.trained).demand_random_numbers()
    train(trial.fresh_to_run, "A", backend=NAME).demand_as_trl_alone()


BACKEND_TRAINING = Suite("backend", (LEVEL,), BACKEND.names, BACKEND.open)

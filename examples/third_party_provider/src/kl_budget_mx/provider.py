"""The provider ``kl-budget``: a policy's rollouts widen, layer by layer, while KL or mismatch is over its budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mx_plugin.errors import PluginError, PolicyError
from mx_plugin.formats import Pair
from mx_plugin.interfaces import LayerInfo, Provider
from mx_plugin.precision import LayerFormats, PolicyProvider, load_policy

from .budget import Budget, Thermostat

LADDER = ("MXFP4", "MXFP6", "MXFP8", "FP16")
"""Formats of weights, from narrow to wide; FP16 is mx-plugin's word for "not quantised"."""


class KLBudget(Provider):
    """Starts from a precision policy; every *move* takes some layers of the policy model one rung up the ladder.

    A step whose number is over its budget makes a move at once; ``patience`` numbers in a row below ``slack`` of every
    budget take the last move back. Only rollouts move: they are what differs from what the update computes.

    Args:
        start: the policy whose formats come first.
        max_kl: budget of the trainer's own KL of policy and reference, as metrics.csv has it; in its unit.
        max_mismatch: budget of ``mx/mismatch/kl``: nats a token between rollout and gradient formats, which a run
            measures every ``mismatch_every`` steps.
        layers_per_move: how many layers a move widens; 0 means all of them.
        slack: the share of a budget below which a number counts as far below.
        patience: numbers in a row that must be far below before formats narrow again.

    Raises:
        PluginError: no budget, or an option out of its range.
        PolicyError: no such policy.
    """

    def __init__(
        self,
        start: str = "C",
        max_kl: float | None = None,
        max_mismatch: float | None = None,
        layers_per_move: int = 0,
        slack: float = 0.5,
        patience: int = 5,
    ) -> None:
        budgets = {"kl": max_kl, "mx/mismatch/kl": max_mismatch}
        given = {metric: float(limit) for metric, limit in budgets.items() if limit is not None}
        if not given:
            raise PluginError(
                "kl-budget has no budget: give max_kl, max_mismatch or both, e.g. --policy_options kl-budget.max_kl=2"
            )
        if layers_per_move < 0:
            raise PluginError(f"layers_per_move={layers_per_move} must be 0 (all layers) or more")
        self._thermostat = Thermostat([Budget(metric, limit) for metric, limit in given.items()], slack, patience)
        self._start_name = str(start)
        self._inner = PolicyProvider(load_policy(self._start_name))
        self._layers_per_move = layers_per_move
        self._layers: dict[tuple[str, str], LayerInfo] = {}
        self._groups: dict[str, int] = {}
        self._count = 1
        self.moves = 0
        """Moves in force: of the n groups of layers, group g is up by ``ceil((moves - g) / n)`` rungs."""
        self.history: list[dict[str, Any]] = []

    # ------------------------------------------------------------------ before the run

    def start(self, layers: Sequence[LayerInfo]) -> None:
        """Divide the policy model's layers into groups of ``layers_per_move``, in the model's order.

        Raises:
            PolicyError: the policy to start from does not fit these layers.
        """
        self._inner.start(layers)
        self._layers = {(layer.role, layer.name): layer for layer in layers}
        names = [layer.name for layer in layers if layer.role == "policy"]
        size = self._layers_per_move or max(len(names), 1)
        self._groups = {name: place // size for place, name in enumerate(names)}
        self._count = max(self._groups.values(), default=0) + 1

    # ------------------------------------------------------------------ formats

    def get_precision(self, layer_name: str, phase: str, role: str = "policy") -> LayerFormats:
        """The start policy's formats, as many rungs up as the layer's moves; a prefix answers if its layers agree."""
        if role != "policy" or phase.removeprefix("eval/") != "rollout" or not self._layers:
            return self._inner.get_precision(layer_name, phase, role)
        if layer_name in self._groups:
            return self._moved(layer_name, phase)
        below = {name: self._moved(name, phase) for name in self._groups if name.startswith(f"{layer_name}.")}
        if not below:
            return self._inner.get_precision(layer_name, phase, role)  # which says what is wrong with the name
        first = next(iter(below.values()))
        if any(found != first for found in below.values()):
            told = ", ".join(f"{name}: {found.forward}" for name, found in list(below.items())[:5])
            raise PolicyError(f"the layers below {layer_name!r} differ in {phase}: {told} ...; ask for one layer")
        return first

    def _moved(self, name: str, phase: str) -> LayerFormats:
        formats = self._inner.get_precision(name, phase, "policy")
        rungs = -((self._groups[name] - self.moves) // self._count)
        weights = formats.weights
        if rungs <= 0 or weights not in LADDER[:-1]:
            return formats  # unquantised already, or a format that is not on the ladder
        wider = LADDER[min(LADDER.index(weights) + rungs, len(LADDER) - 1)]
        if wider == "FP16":
            return LayerFormats()
        return replace(formats, forward=replace(formats.forward, pair=Pair(wider, formats.activations)))

    # ------------------------------------------------------------------ during the run

    def observe(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Move where a budget says so; True makes the engine ask anew and pack again."""
        decision, why = self._thermostat.judge(metrics)
        highest = self._count * (len(LADDER) - 1)
        moves = min(max(self.moves + decision, 0), highest)
        if moves == self.moves:
            return False
        self.moves = moves
        self.history.append({"step": step, "moves": moves, "why": why})
        return True

    def state_dict(self) -> Mapping[str, Any]:
        """Plain data: checkpoints keep it, and a resumed run goes on with it."""
        return {"moves": self.moves, "history": list(self.history), "thermostat": self._thermostat.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.moves = int(state["moves"])
        self.history = [dict(move) for move in state["history"]]
        self._thermostat.load_state_dict(state["thermostat"])

    def describe(self) -> Mapping[str, Any]:
        """For config.json: the options, and every move so far with its reason."""
        return {
            "provider": "kl-budget",
            "name": "kl-budget",
            "start": self._start_name,
            "budgets": {budget.metric: budget.limit for budget in self._thermostat.budgets},
            "layers_per_move": self._layers_per_move,
            "moves": self.moves,
            "history": list(self.history),
        }

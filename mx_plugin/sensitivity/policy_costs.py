"""What a whole policy costs, measured as a profile measures one layer: on the same data, in the same units."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from ..execution.engine import Engine
from ..execution.layer import AdoptedLayer
from ..execution.mismatch import Mismatch, compare
from ..execution.phases import GRADIENT, ROLLOUT
from ..interfaces import Backend, LayerInfo
from ..precision.formats import LayerFormats
from ..precision.max_cost import Scope
from ..precision.policy import PrecisionPolicy
from ..precision.provider import PolicyProvider
from .assigned import Assigned
from .batches import Batch
from .errors import ProfileError
from .measures import Costs, Loss, Measure
from .profile import opened, undisturbed
from .request import BatchesByRole, Pairs, batches_by_role
from .scopes import measures
from .subject import Subject


class PolicyCosts:
    """Costs of policies on one model and its data; the unquantised model is run once, at the first question."""

    def __init__(
        self, adopting: Engine, provider: Assigned, model: nn.Module, found: Mapping[Scope, Measure], data: list[Batch]
    ) -> None:
        self._engine, self._provider, self._model = adopting, provider, model
        self._measures, self._batches = found, data
        self._policy_layers = [layer for layer in adopting.layers if layer.role == "policy"]

    @property
    def layers(self) -> list[LayerInfo]:
        """What was adopted."""
        return [LayerInfo(x.name, x.role, x.in_features, x.out_features, x.is_lm_head) for x in self._engine.layers]

    def dtype(self, role: str) -> torch.dtype:
        """The dtype of that role's first adopted layer."""
        return next(layer.weight.dtype for layer in self._engine.layers if layer.role == role)

    def __call__(self, policy: PrecisionPolicy, scopes: Collection[Scope]) -> dict[Scope, Costs]:
        """Metric -> cost of the whole policy, for each of ``scopes`` by itself.

        Raises:
            ProfileError: a scope without a model or data.
            PolicyError: a rule that fits no layer.
        """
        PolicyProvider(policy).start(self.layers)
        costs: dict[Scope, Costs] = {}
        for scope in scopes:
            if scope not in self._measures:
                known = ", ".join("/".join(each) for each in self._measures)
                raise ProfileError(f"{'/'.join(scope)} cannot be measured here, only {known}; give the models and data")
            measure = self._measures[scope]
            measure.prepare()
            costs[scope] = measure.costs(self._formats(policy, measure.subject))
        return costs

    def mismatch(self, policy: PrecisionPolicy, clip: float = 0.2) -> dict[str, float]:
        """Rollout against gradient formats of the policy model: ``kl``, ``mean_abs_logratio`` (nats a token),
        ``frac_outside_clip`` (share of tokens outside 1 +- clip) and ``tokens``.

        As the step-0 gate of a run, but over all positions that count, prompts too where the batches count them.
        """
        found = [self._compared(policy, batch, clip) for batch in self._batches]
        tokens = sum(each.tokens for each in found)
        means = {
            name: sum(getattr(each, name) * each.tokens for each in found) / max(tokens, 1)
            for name in ("kl", "mean_abs_logratio", "frac_outside_clip")
        }
        return means | {"tokens": tokens}

    def _compared(self, policy: PrecisionPolicy, batch: Batch, clip: float) -> Mismatch:
        logits = []
        for phase in (ROLLOUT, GRADIENT):
            subject = Subject(self._engine, self._provider, self._model, phase, "policy", self._policy_layers, [batch])
            logits += [each.detach().cpu() for each in subject.outputs(self._formats(policy, subject))]
        tokens = batch.inputs["input_ids"].cpu()
        return compare(logits[0][:, :-1], logits[1][:, :-1], tokens[:, 1:], batch.mask[:, 1:], clip)

    def _formats(self, policy: PrecisionPolicy, subject: Subject) -> dict[str, LayerFormats]:
        return {layer.name: self._resolved(policy, subject, layer) for layer in subject.layers}

    @staticmethod
    def _resolved(policy: PrecisionPolicy, subject: Subject, layer: AdoptedLayer) -> LayerFormats:
        return policy.resolve(layer.name, subject.phase, subject.role, is_lm_head=layer.is_lm_head)


@contextmanager
def policy_costs(
    model: nn.Module,
    batches: BatchesByRole,
    *,
    models: Mapping[str, nn.Module] | None = None,
    pairs: Pairs = (),
    losses: Mapping[str, Loss] | None = None,
    backend: Backend | str = "auto",
    seed: int = 0,
) -> Iterator[PolicyCosts]:
    """Adopt the models while the block lasts; arguments as for ``profile``.

    Raises:
        ProfileError: nothing to measure, or something that does not fit.
        AdoptionError, PluginError: a model without layers, a backend that is not there.
    """
    roots = {"policy": model, **(models or {})}
    data, indices = batches_by_role(batches, roots, pairs)
    provider = Assigned()
    with (
        undisturbed(roots.values()),
        opened(backend, model) as executing,
        Engine(provider, executing, seed=seed, reference="own") as adopting,
    ):
        adopting.adopt(roots)
        found = measures(adopting, provider, roots, data, pairs=indices, losses=losses or {}, phases=None, exclude=())
        by_scope: dict[Scope, Measure] = {(each.subject.phase, each.subject.role): each for each in found}
        yield PolicyCosts(adopting, provider, model, by_scope, data["policy"])

"""Additivity is tested: predicted against measured costs, on made-up measures and on a real model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

from mx_plugin.errors import PolicyError
from mx_plugin.precision import MatrixRow, PrecisionPolicy, SensitivityMatrix
from mx_plugin.precision.max_cost import Scope
from mx_plugin.precision.search import Bytes, SearchResult, search, shapes_of
from mx_plugin.precision.search.additivity import NEAR, ScopeVerdict, random_assignments, verify
from mx_plugin.sensitivity import profile
from mx_plugin.sensitivity.policy_costs import PolicyCosts, policy_costs
from tests.precision.search.matrices import row

ROLLOUT: Scope = ("rollout", "policy")
GRADIENT: Scope = ("gradient", "policy")

MATRIX = SensitivityMatrix(
    tuple(
        row(f"h.{i}", fmt, round(cost * (1 + i / 7), 6), scope)
        for i in range(12)
        for fmt, cost in (("MXFP4", 0.03), ("MXFP6", 0.01), ("MXFP8", 0.004))
        for scope in (ROLLOUT, GRADIENT)
    ),
    "made here",
)


def found() -> SearchResult:
    return search(MATRIX, {"rollout": 0.1, "gradient": 0.2}, Bytes(), shapes_of(MATRIX))


def sums(policy: PrecisionPolicy, factor: float = 1.0) -> dict[Scope, float]:
    """What additive costs give for a policy, read from its rules alone."""
    costs = dict.fromkeys((ROLLOUT, GRADIENT), 0.0)
    by_format = {(r.key, f"{r.format}/MXFP8"): r.cost for r in MATRIX.rows}
    for rule in policy.rules:
        key = (rule.layers, rule.phases[0], rule.roles[0])
        costs[key[1:]] += factor * by_format.get((key, str(rule.format)), 0.0)
    return costs


def test_additive_costs_give_one() -> None:
    for verdict in verify(found(), sums):
        assert verdict.r_squared == pytest.approx(1.0)
        assert verdict.slope == pytest.approx(1.0)
        assert verdict.within_budget
        assert len(verdict.trials) == 20


def test_costs_that_are_more_than_their_sum_are_seen() -> None:
    rollout, gradient = verify(found(), lambda policy: {**sums(policy), ROLLOUT: 2.5 * sums(policy)[ROLLOUT]})[::-1]
    assert rollout.slope == pytest.approx(2.5)
    assert rollout.r_squared is not None
    assert rollout.r_squared < 0
    assert not rollout.within_budget
    assert any("EXCEEDS the budget of 0.1" in line for line in rollout.lines())
    assert any("try a budget of about 0.04, and verify again" in line for line in rollout.lines())
    assert gradient.slope == pytest.approx(1.0)


def test_r_squared_is_that_of_the_prediction_itself() -> None:
    noise = iter(np.random.default_rng(0).normal(1, 0.2, 1000).tolist())

    def noisy(policy: PrecisionPolicy) -> Mapping[Scope, float]:
        return {scope: cost * next(noise) for scope, cost in sums(policy).items()}

    for verdict in verify(found(), noisy, 40):
        predicted = np.array([t.predicted for t in verdict.trials])
        measured = np.array([t.measured for t in verdict.trials])
        by_hand = 1 - ((measured - predicted) ** 2).sum() / ((measured - measured.mean()) ** 2).sum()
        assert verdict.r_squared == pytest.approx(by_hand)
        assert verdict.slope == pytest.approx(np.linalg.lstsq(predicted[:, None], measured, rcond=None)[0][0])
        assert abs(verdict.worst.measured - verdict.worst.predicted) == np.abs(measured - predicted).max()


def test_policies_that_break_the_model_are_counted_and_left_out() -> None:
    def breaking(policy: PrecisionPolicy) -> dict[Scope, float]:
        costs = sums(policy)
        return {scope: float("inf") if cost > 0.15 else cost for scope, cost in costs.items()}

    verdict: ScopeVerdict = verify(found(), breaking)[1]
    assert verdict.result.scope == ROLLOUT
    broken = sum(trial.predicted > 0.15 for trial in verdict.trials)
    assert 0 < broken < 20
    assert f"{broken} broke the model" in verdict.lines()[0]
    assert verdict.r_squared == pytest.approx(1.0)
    assert verdict.worst.measured == float("inf")


def test_random_policies_lie_around_the_budget_and_differ() -> None:
    result = found().scopes[ROLLOUT]
    drawn = random_assignments(result, 50, seed=3)
    costs = [assignment.cost for assignment in drawn]
    assert max(costs) <= NEAR[1] * result.budget
    assert min(costs) < 0.5 * result.budget < 1.5 * result.budget < max(costs)
    assert len({assignment.options for assignment in drawn}) == 50
    assert [a.options for a in random_assignments(result, 50, seed=3)] == [a.options for a in drawn]
    assert [a.options for a in random_assignments(result, 50, seed=4)] != [a.options for a in drawn]


@pytest.mark.parametrize("budget", [0.0, float("inf")])
def test_a_budget_that_leaves_no_room_draws_from_the_whole_range(budget: float) -> None:
    result = search(MATRIX, {"rollout": budget}, Bytes(), shapes_of(MATRIX)).scopes[ROLLOUT]
    costs = [assignment.cost for assignment in random_assignments(result, 20, seed=0)]
    assert max(costs) > 3 * min(costs)


def test_too_few_policies_are_refused() -> None:
    with pytest.raises(PolicyError, match="19 random policies prove little; verify at least 20"):
        verify(found(), sums, 19)


# ---------------------------------------------------------------------------- a real model


class Language(nn.Module):
    """Token ids -> logits, in plain torch; three residual layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 64)
        self.h = nn.ModuleList([nn.Linear(64, 64) for _ in range(3)])
        self.lm_head = nn.Linear(64, 50, bias=False)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        for layer in self.h:
            x = x + torch.tanh(layer(x))
        return self.lm_head(x)


@pytest.fixture(scope="module")
def language() -> Language:
    torch.manual_seed(0)
    model = Language()
    with torch.no_grad():
        model.lm_head.weight.mul_(4)
    return model


BATCHES = [torch.randint(0, 50, (4, 16), generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


def test_a_profiled_model_is_searched_and_its_policy_verified(language: Language) -> None:
    before = {name: value.clone() for name, value in language.state_dict().items()}
    matrix = profile(language, BATCHES, formats=["MXFP4", "MXFP8"], phases=["rollout", "gradient"]).matrix()
    whole = sum(r.cost for r in matrix.rows if r.phase == "rollout" and r.format == "MXFP4")
    result = search(matrix, {"rollout": whole / 2, "gradient": 10.0}, Bytes(), shapes_of(matrix))
    policy = result.policy()
    with policy_costs(language, BATCHES) as costs:
        assert isinstance(costs, PolicyCosts)

        def measure(policy: PrecisionPolicy) -> dict[Scope, float]:
            found = costs(policy, [ROLLOUT, GRADIENT])
            return {ROLLOUT: found[ROLLOUT]["kl"], GRADIENT: found[GRADIENT]["gradient_error"]}

        # One layer alone costs what the profile says of it.
        for one in [r for r in matrix.rows if r.phase == "rollout"][:3]:
            alone = PrecisionPolicy.from_matrix(SensitivityMatrix((MatrixRow(*one.key, one.format, 0.0),)), 1.0)
            assert measure(alone)[ROLLOUT] == pytest.approx(one.cost, rel=1e-4)
        gradient, rollout = verify(result, measure)
        assert rollout.chosen.measured == measure(policy)[ROLLOUT] > 0
        assert rollout.chosen.predicted == pytest.approx(result.scopes[ROLLOUT].chosen.cost)
        assert rollout.r_squared is not None
        # Bytes leave gradient alone; errors of random policies add up in quadrature, to less than their sum.
        assert gradient.chosen.measured == gradient.chosen.predicted == 0
        assert gradient.slope is not None
        assert 0 < gradient.slope < 1
        step0 = costs.mismatch(policy)
        assert step0["tokens"] == 2 * 4 * 15
        assert 0 < step0["kl"] < 1
        assert costs.mismatch(PrecisionPolicy("A"))["kl"] == 0
    assert all(torch.equal(value, before[name]) for name, value in language.state_dict().items())
    assert type(language.h[0]) is nn.Linear

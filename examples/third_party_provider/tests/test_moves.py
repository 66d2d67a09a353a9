"""How formats move with KL and mismatch."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kl_budget_mx.provider import KLBudget

from mx_plugin.errors import PluginError, PolicyError
from mx_plugin.interfaces import LayerInfo

LAYERS = [LayerInfo(f"layers.{n}.up", "policy", 64, 64) for n in range(4)]
REFERENCE = [LayerInfo(layer.name, "reference", 64, 64) for layer in LAYERS]


def started(**options: Any) -> KLBudget:
    provider = KLBudget(**{"max_kl": 1.0, **options})
    provider.start([*LAYERS, *REFERENCE])
    return provider


def formats(provider: KLBudget, phase: str = "rollout") -> list[str]:
    return [str(provider.get_precision(layer.name, phase)) for layer in LAYERS]


def test_within_the_budget_the_start_policy_decides() -> None:
    provider = started(start="C")
    assert not provider.observe(1, {"kl": 0.9})
    assert formats(provider) == ["MXFP4"] * 4
    assert provider.get_precision("layers.0.up", "rollout") == "MXFP4/MXFP8"


def test_over_the_budget_every_step_climbs_one_rung_up_to_unquantised_and_no_further() -> None:
    provider, seen = started(), []
    for step in range(5):
        asked_again = provider.observe(step, {"kl": 2.0 + step})
        seen.append((asked_again, formats(provider)[0]))
    assert seen == [(True, "MXFP6"), (True, "MXFP8"), (True, "FP16"), (False, "FP16"), (False, "FP16")]


def test_layers_may_move_a_few_at_a_time_in_the_models_order() -> None:
    provider = started(layers_per_move=2)
    provider.observe(1, {"kl": 2.0})
    assert formats(provider) == ["MXFP6", "MXFP6", "MXFP4", "MXFP4"]
    provider.observe(2, {"kl": 2.1})
    provider.observe(3, {"kl": 2.2})
    assert formats(provider) == ["MXFP8", "MXFP8", "MXFP6", "MXFP6"]


def test_only_rollouts_of_the_policy_model_move() -> None:
    provider, still = started(), started()
    provider.observe(1, {"kl": 9.0})
    for phase in ("reward", "gradient"):
        assert formats(provider, phase) == formats(still, phase)
    assert provider.get_precision("layers.0.up", "rollout", "reference") == "MXFP4"
    assert provider.get_precision("layers.0.up", "eval/rollout") == "MXFP6"


def test_far_below_the_budget_a_move_is_taken_back_after_patience_and_not_in_between() -> None:
    provider = started(patience=3, slack=0.5)
    provider.observe(0, {"kl": 1.5})
    told = [provider.observe(step, {"kl": kl}) for step, kl in enumerate([0.4, 0.3, 0.7, 0.2, 0.1, 0.15], start=1)]
    assert told == [False, False, False, False, False, True]  # 0.7 is within the budget, but not far below
    assert formats(provider) == ["MXFP4"] * 4


def test_a_number_that_is_shown_again_is_no_news() -> None:
    provider = started()
    assert provider.observe(1, {"kl": 2.0})
    assert not provider.observe(2, {"kl": 2.0})
    assert not provider.observe(3, {})
    assert formats(provider) == ["MXFP6"] * 4


def test_mismatch_has_a_budget_of_its_own() -> None:
    provider = started(max_kl=None, max_mismatch=0.01)
    assert not provider.observe(1, {"kl": 50.0})
    assert provider.observe(2, {"mx/mismatch/kl": 0.02})


def test_a_number_that_is_nan_is_over_every_budget() -> None:
    assert started().observe(1, {"kl": float("nan")})


def test_a_resumed_provider_goes_on_where_the_other_stopped() -> None:
    first, second = started(patience=2), started(patience=2)
    for step, kl in enumerate([2.0, 3.0, 0.1]):
        first.observe(step, {"kl": kl})
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert formats(second) == formats(first) == ["MXFP8"] * 4
    assert first.observe(3, {"kl": 0.2}) and second.observe(3, {"kl": 0.2})
    assert second.describe() == first.describe()


def test_every_move_is_told_with_its_step_and_reason() -> None:
    provider = started()
    provider.observe(7, {"kl": 2.5})
    assert provider.describe()["history"] == [{"step": 7, "moves": 1, "why": "kl 2.5 is over 1"}]


def test_a_prefix_answers_while_its_layers_agree_and_lists_them_when_they_differ() -> None:
    provider = started(layers_per_move=1)
    assert provider.get_precision("layers", "rollout") == "MXFP4"
    provider.observe(1, {"kl": 2.0})
    assert provider.get_precision("layers.0", "rollout") == "MXFP6"
    with pytest.raises(PolicyError, match=r"layers\.0\.up: MXFP6/MXFP8, layers\.1\.up: MXFP4/MXFP8"):
        provider.get_precision("layers", "rollout")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "has no budget"),
        ({"max_kl": 0}, "must be a number above 0"),
        ({"max_kl": 1, "slack": 1.5}, "slack=1.5 must lie between 0 and 1"),
        ({"max_kl": 1, "patience": 0}, "patience=0 must be at least 1"),
        ({"max_kl": 1, "layers_per_move": -1}, "layers_per_move=-1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(PluginError, match=why):
        KLBudget(**options)

"""One backend for all layers, others for some of them, or in one phase only; and their options."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mx_plugin import get_backend
from mx_plugin.config import MXConfig
from mx_plugin.errors import PolicyError
from mx_plugin.execution.backend_choice import BackendChoice

from .conftest import TwoLayers
from .releasing import ALL_MXFP8, C_LIKE


def test_a_backend_may_be_named_for_one_phase(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    rollouts = get_backend("reference")
    engine = engines(C_LIKE, {"policy": model, "reward": TwoLayers()}, backends={"up@rollout": rollouts})
    with torch.no_grad(), engine.phase("rollout"):
        model(x)
    with torch.no_grad(), engine.phase("eval/rollout"):
        model(x)
    assert rollouts.counters().linear_calls == 2
    with torch.no_grad(), engine.phase("reward"):
        engine._roots["reward"](x)
    assert rollouts.counters().linear_calls == 2
    assert engine.backend.counters().linear_calls == 2 + 2  # down in both rollouts, up and down in reward


def test_a_rule_for_a_phase_wins_over_a_later_one_for_all() -> None:
    default, rollouts, others = (get_backend("reference") for _ in range(3))
    choice = BackendChoice(default, {"*.q@rollout": rollouts, "*.q": others})
    assert choice.of("a.q", "rollout") is rollouts and choice.of("a.q", "eval/rollout") is rollouts
    assert choice.of("a.q", "reward") is others and choice.of("a.q", None) is others
    assert choice.of("a.k", "rollout") is default
    assert choice.all() == [default, rollouts, others]


def test_one_format_in_two_phases_is_packed_for_each_backend_and_stays_fresh(
    engines: Any, model: TwoLayers, x: torch.Tensor
) -> None:
    policy = {"defaults": {"rollout": "MXFP8", "reward": "MXFP8", "gradient": "MXFP8"}}
    rollouts = get_backend("reference")
    engine = engines(policy, {"policy": model}, backends={"up@rollout": rollouts}, policy_scoring="rollout")

    def run(phase: str) -> torch.Tensor:
        with torch.no_grad(), engine.phase(phase):
            return model(x)

    assert torch.equal(run("rollout"), run("reward"))
    with torch.no_grad():
        model.up.weight.data.mul_(2.0)
    engine.invalidate()
    assert torch.equal(run("rollout"), run("reward"))
    assert rollouts.counters().weights_loaded == 2


def test_a_released_weight_serves_both_backends(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    model.requires_grad_(False)
    rollouts = get_backend("reference")
    engine = engines(ALL_MXFP8, {"reward": model}, backends={"up@rollout": rollouts})
    engine.release()
    assert {release.layer.name for release in engine.releases.done} == {"up", "down"}
    with torch.no_grad(), engine.phase("reward"):
        scored = model(x)
    with torch.no_grad(), engine.phase("rollout"):
        generated = model(x)
    assert rollouts.counters().linear_calls == 1
    assert torch.equal(scored, generated)


def test_a_phase_that_does_not_exist_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"'up@rolout' names phase 'rolout': did you mean 'rollout'"):
        BackendChoice(get_backend("reference"), {"up@rolout": get_backend("reference")})


def test_fpga_layers_is_short_for_a_backend_in_rollout() -> None:
    config = MXConfig(backends={"*.v": "acme"}, fpga_layers=["*.q", "*.k"])
    assert config.backend_patterns() == {"*.v": "acme", "*.q@rollout": "fpga", "*.k@rollout": "fpga"}
    assert MXConfig(fpga_layers="*.q").backend_patterns() == {"*.q@rollout": "fpga"}


def test_options_reach_a_backend_typed_from_the_command_line_and_from_yaml() -> None:
    words = ["fpga.url=socket://127.0.0.1:7000", "fpga.share=0.5", "fpga.tokens=3", "acme.fast=true"]
    expected = {"fpga": {"url": "socket://127.0.0.1:7000", "share": 0.5, "tokens": 3}, "acme": {"fast": True}}
    assert MXConfig(backend_options=words).options_by_backend() == expected
    assert MXConfig(backend_options=expected).options_by_backend() == expected
    assert MXConfig(backend_options=["fpga.url=sim:"]).options_by_backend() == {"fpga": {"url": "sim:"}}


@pytest.mark.parametrize("entry", ["url=sim:", "fpga.url", "fpga.=x", ".url=x"])
def test_an_option_of_no_backend_is_refused(entry: str) -> None:
    with pytest.raises(PolicyError, match=r"is not NAME\.OPTION=VALUE"):
        MXConfig(backend_options=[entry])
    with pytest.raises(PolicyError, match="must be a mapping"):
        MXConfig(backend_options={"fpga": "sim:"})


def test_options_of_meters_and_of_providers_are_read_the_same_way() -> None:
    config = MXConfig(
        meters=["modelled", "plug"], meter_options=["plug.url=http://192.0.2.7/", "plug.poll_s=0.5"],
        policy_options={"budget": {"max_kl": 2}},
    )  # fmt: skip
    assert config.options_by_meter() == {"plug": {"url": "http://192.0.2.7/", "poll_s": 0.5}}
    assert config.options_by_provider() == {"budget": {"max_kl": 2}}


def test_options_of_a_meter_that_does_not_run_are_refused() -> None:
    with pytest.raises(PolicyError, match=r"meter_options names 'plug', which is not in meters.*Valid: modelled"):
        MXConfig(meter_options=["plug.url=http://192.0.2.7/"])

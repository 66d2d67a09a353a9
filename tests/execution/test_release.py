"""Which frozen layers give up their full-precision weight, and what is executed then."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mx_plugin import fake_quantize
from mx_plugin.errors import ReleasedWeightError
from mx_plugin.precision import PolicyProvider

from .conftest import TwoLayers, make_policy
from .releasing import ALL_MXFP8, BOTH, C_LIKE, DGRAD_FP16, Memory, decoded, reasons, released

# ---------------------------------------------------------------------------- which layers qualify


def test_frozen_layers_of_one_format_are_released_and_the_others_say_why_not(
    adopt: Any, model: TwoLayers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reward = copy.deepcopy(model).requires_grad_(False)
    engine = adopt(ALL_MXFP8, {"policy": model, "reward": reward})
    engine.release()
    assert released(engine) == {"reward:up", "reward:down"}
    assert reasons(engine) == {
        "policy:up": "its weight is trained",
        "policy:down": "its weight is trained",
        "policy:lm_head": "its weight is trained",
        "reward:lm_head": "its weight is not quantised in reward",
    }
    assert "2 layers gave up" in caplog.text and "3 because its weight is trained: policy:up" in caplog.text


def test_a_policy_that_quantises_nothing_releases_nothing_and_says_so(
    adopt: Any, frozen: TwoLayers, caplog: pytest.LogCaptureFixture
) -> None:
    engine = adopt({"defaults": {"rollout": "FP16", "reward": "FP16", "gradient": "FP16"}}, {"reward": frozen})
    engine.release()
    assert not engine.releases.done and type(frozen.up.weight) is nn.Parameter
    assert "released no layer" in caplog.text and "not quantised in reward" in caplog.text


FLOOR = {"format": BOTH, "scale_rule": "floor"}
TURNED = {"format": BOTH, "hadamard": True}


@pytest.mark.parametrize(
    ("rollout", "gradient", "reason"),
    [
        ("MXFP8", "FP16", "its weight is not quantised in reward"),
        (
            "MXFP8",
            {"forward": {"format": BOTH, "rounding": "stochastic"}, "dgrad": BOTH, "wgrad": BOTH},
            "its weight is rounded by stochastic rounding in gradient",
        ),
        ("MXFP8", "MXFP6", "its weight's format differs: MXFP8 (rceil) in rollout, MXFP6 (rceil) in reward"),
        (
            "MXFP8",
            {"forward": FLOOR, "dgrad": BOTH, "wgrad": BOTH},
            "its weight's format differs: MXFP8 (rceil) in rollout, MXFP8 (floor) in reward",
        ),
        (
            "MXFP8",
            {"forward": BOTH, "dgrad": "MXFP6/MXFP8", "wgrad": BOTH},
            "dgrad casts it to MXFP6, the forward product to MXFP8, in gradient",
        ),
        (
            "MXFP8",
            {"forward": TURNED, "dgrad": BOTH, "wgrad": BOTH},
            "its weight is cast under a Hadamard transform in gradient",
        ),
    ],
)
def test_a_frozen_base_layer_needs_one_format_in_all_phases(
    adopt: Any, frozen: TwoLayers, rollout: str, gradient: Any, reason: str
) -> None:
    engine = adopt({"defaults": {"rollout": rollout, "reward": "MXFP8", "gradient": gradient}}, {"policy": frozen})
    engine.release()
    assert reasons(engine)["policy:down"] == reason
    assert not engine.releases.done


def test_models_that_nothing_trains_run_in_reward_only(adopt: Any, frozen: TwoLayers) -> None:
    policy = TwoLayers()
    engine = adopt(C_LIKE, {"policy": policy, "reference": frozen}, match_phase="rollout")
    engine.release()
    assert released(engine) == {"reference:up", "reference:down"}
    assert {release.weights for release in engine.releases.done} == {"MXFP4"}


def test_a_role_declared_frozen_is_released_although_its_parameters_say_they_need_gradients(
    adopt: Any, model: TwoLayers
) -> None:
    engine = adopt(ALL_MXFP8, {"reward": model})
    engine.release(frozen_roles={"reward"})
    assert released(engine) == {"reward:up", "reward:down"}
    assert not model.up.weight.requires_grad
    engine.restore()
    assert model.up.weight.requires_grad and model.down.weight.requires_grad


def test_tied_and_shared_weights_are_never_released(adopt: Any) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(48, 64)
            self.tied = nn.Linear(64, 48, bias=False)
            self.tied.weight = self.embedding.weight
            self.first, self.second = nn.Linear(64, 32), nn.Linear(64, 32)
            self.second.weight.data = self.first.weight.data
            self.part = nn.Linear(64, 32, bias=False)
            self.part.weight.data = torch.randn(64, 64)[:32]
            self.alone = nn.Linear(64, 32)

    model, other = Tied().requires_grad_(False), nn.ModuleDict()
    other["of_two_roles"] = nn.Linear(64, 32).requires_grad_(False)
    model.of_two_roles = other["of_two_roles"]
    engine = adopt(ALL_MXFP8, {"reward": model, "reference": other})
    engine.release()
    assert released(engine) == {"reward:alone"}
    assert reasons(engine) == {
        "reward:tied": "its weight is shared with reward:embedding.weight",
        "reward:first": "its weight is shared with reward:second.weight",
        "reward:second": "its weight is shared with reward:first.weight",
        "reward:part": "its weight is a part of larger memory",
        "reward:of_two_roles": "its weight is shared with the roles reference and reward",
    }


def test_managed_hooked_and_withheld_parameters_are_never_released(adopt: Any) -> None:
    model = nn.ModuleDict({name: nn.Linear(64, 32) for name in ("hooked", "subclass", "held", "wide", "graph")})
    model["hooked"]._hf_hook = object()
    model["subclass"].weight = type("Sharded", (nn.Parameter,), {})(torch.randn(32, 64))
    model["wide"].to(torch.float64)
    graph = model["graph"].weight.square().sum()
    engine = adopt(ALL_MXFP8, {"reward": model})
    engine.release(frozen_roles={"reward"}, withheld={id(model["held"].weight): "the optimiser holds its weight"})
    found = reasons(engine)
    assert found == {
        "reward:hooked": "an accelerate hook manages its weight",
        "reward:subclass": "its weight is a Sharded that something else manages",
        "reward:held": "the optimiser holds its weight",
        "reward:wide": "its weight is torch.float64 on cpu",
        "reward:graph": "something else refers to its weight, e.g. a graph that waits for its backward",
    }
    torch.autograd.backward(graph)
    assert torch.equal(model["graph"].weight.grad, 2 * model["graph"].weight)


# ---------------------------------------------------------------------------- what is executed


def test_a_released_model_scores_bit_for_bit_as_before(adopt: Any, frozen: TwoLayers, x: torch.Tensor) -> None:
    engine = adopt(ALL_MXFP8, {"reward": frozen})
    with torch.no_grad():
        before = frozen(x)
        engine.release()
        assert torch.equal(frozen(x), before)
        engine.phase("eval")
        assert engine.hits()["reward"]["reward"] == {"up": 2, "down": 2, "lm_head": 2}


class LoRA(nn.Module):
    """A frozen base layer beside a trainable low-rank path."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.Linear(base.in_features, 4, bias=False)
        self.lora_B = nn.Linear(4, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


def with_lora() -> TwoLayers:
    torch.manual_seed(0)
    model = TwoLayers()
    model.up, model.down = LoRA(model.up), LoRA(model.down)
    model.lm_head.requires_grad_(False)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("policy", [ALL_MXFP8, DGRAD_FP16], ids=["dgrad MXFP8", "dgrad FP16"])
def test_one_packed_copy_serves_rollout_and_the_forward_of_gradient(
    adopt: Any, x: torch.Tensor, policy: Any, dtype: torch.dtype
) -> None:
    results = []
    for release in (False, True):
        model = with_lora().to(dtype)
        engine = adopt(policy, {"policy": model})
        if release:
            engine.release()
            assert released(engine) == {"policy:up", "policy:down"}
        with engine.phase("rollout"), torch.no_grad():
            rollout = model(x.to(dtype))
        with torch.no_grad():
            scored = model(x.to(dtype))
        leaf = x.to(dtype).requires_grad_()
        results.append((rollout, scored, model(leaf), model(x.to(dtype))))
        if release:
            assert engine.backend.counters().weights_loaded == 2, "no second copy"
        engine.restore()
    for before, after in zip(*results, strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("policy", [ALL_MXFP8, DGRAD_FP16], ids=["dgrad MXFP8", "dgrad FP16"])
def test_dgrad_takes_the_decoded_forward_weight(adopt: Any, x: torch.Tensor, policy: Any) -> None:
    layer = nn.Linear(64, 48).requires_grad_(False)
    weight = layer.weight.detach().clone()
    engine = adopt(policy, {"policy": nn.ModuleDict({"only": layer, "adapter": nn.Bilinear(2, 2, 2)})})
    engine.release()
    leaf = x.clone().requires_grad_()
    dy = torch.randn(5, 48, generator=torch.Generator().manual_seed(3))
    layer(leaf).backward(dy)
    dx = fake_quantize(dy, "MXFP8", scale_rule="rceil") @ decoded(weight)
    torch.testing.assert_close(leaf.grad, dx)
    other = fake_quantize(dy, "MXFP8", scale_rule="rceil") @ weight
    assert float((leaf.grad - other).abs().max()) > 1e-3, "else this proves nothing"


def test_stochastic_rounding_and_hadamard_of_dgrad_apply_to_dy_without_bias(adopt: Any, x: torch.Tensor) -> None:
    gradient = {
        "forward": BOTH,
        "dgrad": {"format": "MXFP8/MXFP4", "rounding": "stochastic", "scale_rule": "floor", "hadamard": True},
        "wgrad": BOTH,
    }
    layer = nn.Linear(64, 64, bias=False).requires_grad_(False)
    weight = layer.weight.detach().clone()
    policy = {"defaults": {"rollout": "MXFP8", "reward": "MXFP8", "gradient": gradient}}
    engine = adopt(policy, {"policy": nn.ModuleDict({"only": layer})})
    engine.release()
    dy = torch.randn(5, 64, generator=torch.Generator().manual_seed(3))
    total = torch.zeros(5, 64)
    draws = 400
    for step in range(draws):
        engine.advance(step)
        leaf = x.clone().requires_grad_()
        layer(leaf).backward(dy)
        total += leaf.grad
    exact = dy @ decoded(weight)
    assert float((total / draws - exact).norm() / exact.norm()) < 0.02


def test_under_checkpointing_and_autocast_a_released_layer_computes_what_it_did(adopt: Any, x: torch.Tensor) -> None:
    from torch.utils.checkpoint import checkpoint

    results = []
    for release in (False, True):
        model = with_lora()
        engine = adopt(ALL_MXFP8, {"policy": model})
        if release:
            engine.release()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = checkpoint(model, x.clone().requires_grad_(), use_reentrant=False)
        y.float().sum().backward()
        results.append((y, model.up.lora_B.weight.grad, model.down.lora_A.weight.grad))
        engine.restore()
    assert torch.equal(results[0][0], results[1][0])
    for before, after in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(after, before, rtol=0.1, atol=0.05)  # dgrad differs, as documented


@pytest.mark.parametrize("policy", [ALL_MXFP8, DGRAD_FP16], ids=["dgrad MXFP8", "dgrad FP16"])
def test_work_of_a_released_layer_is_booked_as_executed_without_casts_of_its_weight(
    adopt: Any, x: torch.Tensor, policy: Any
) -> None:
    layer = nn.Linear(64, 32, bias=False).requires_grad_(False)
    engine = adopt(policy, {"policy": nn.ModuleDict({"only": layer})})
    engine.release()
    engine.collect()
    layer(x.clone().requires_grad_()).sum().backward()
    (work,) = engine.collect()
    assert (work.format, work.macs) == ("MXFP8/MXFP8", 2 * 5 * 64 * 32)
    assert work.cast_elements == 5 * 64 + 5 * 32
    engine.restore()
    told = engine.resolved()["policy"]["gradient"]["only"]
    assert told == "forward MXFP8/MXFP8, dgrad MXFP8/MXFP8, wgrad MXFP8/MXFP8"


def test_a_phase_that_would_need_the_released_weight_raises(adopt: Any, frozen: TwoLayers, x: torch.Tensor) -> None:
    engine = adopt(C_LIKE, {"reward": frozen})
    engine.release()
    with pytest.raises(ReleasedWeightError, match=r"reward:up was released as MXFP8 .* executes in gradient"):
        frozen(x)
    with torch.no_grad(), engine.phase("rollout"), pytest.raises(ReleasedWeightError, match=r"MXFP4 .rceil"):
        frozen(x)
    with torch.no_grad():
        frozen(x)


def test_layers_whose_formats_the_provider_changes_get_their_weight_back(
    adopt: Any, frozen: TwoLayers, x: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    plain = copy.deepcopy(frozen)
    engine = adopt(ALL_MXFP8, {"reward": frozen})
    engine.release(Memory(frozen))
    engine.provider.observe = lambda step, metrics: True
    engine.observe(1, {})
    assert not engine.releases.done[0].restored
    engine.provider = PolicyProvider(make_policy(**C_LIKE, roles={"reward": {"reward": "MXFP6"}}))
    engine.provider.start([layer.info for layer in engine.layers])
    engine.provider.observe = lambda step, metrics: True
    engine.observe(2, {})
    assert torch.equal(frozen.up.weight, plain.up.weight) and "reward:up is not released any more" in caplog.text
    with torch.no_grad():
        up = F.linear(fake_quantize(x, "MXFP8", scale_rule="rceil"), decoded(plain.up.weight, "MXFP6"), plain.up.bias)
        torch.testing.assert_close(frozen.up(x), up)

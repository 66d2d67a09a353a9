"""Drift and gradient norms against what the whole tensors say; names of a trainer's log."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mx_trl.dashboard.columns import columns_of, not_finite
from mx_trl.dashboard.drift import SAMPLE, Drift, layer_of
from mx_trl.dashboard.gradients import GradientNorms, clip_factor


class Blocks(nn.Module):
    """Two blocks of different sizes and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(128, 128)])
        self.head = nn.Linear(8, 2, bias=False)


@pytest.fixture
def model() -> Blocks:
    torch.manual_seed(0)
    return Blocks()


def whole(parameters: list[torch.Tensor], before: list[torch.Tensor]) -> float:
    change = sum((now - then).square().sum() for now, then in zip(parameters, before, strict=True))
    return float((change / sum(then.square().sum() for then in before)) ** 0.5)


def test_drift_is_what_the_whole_weights_say(model: Blocks) -> None:
    start = [p.detach().clone() for p in model.parameters()]
    drift = Drift({"policy": model})
    assert set(drift.measure().values()) == {0.0}
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter += 0.01 * (number + 1) * torch.randn_like(parameter)
    found = drift.measure()
    now = [p.detach() for p in model.parameters()]
    assert found["policy/layers.0"] == pytest.approx(whole(now[:2], start[:2]), rel=1e-5)  # kept whole
    assert found["policy/head"] == pytest.approx(whole(now[4:], start[4:]), rel=1e-5)
    assert found["policy/layers.1"] == pytest.approx(whole(now[2:4], start[2:4]), rel=0.08)  # sampled: 4 sigma
    assert found["policy/all"] == pytest.approx(whole(now, start), rel=0.08)


def test_drift_keeps_little_draws_nothing_and_finds_the_same_again(model: Blocks) -> None:
    state = torch.get_rng_state()
    first, second = Drift({"policy": model}), Drift({"policy": model})
    assert torch.equal(torch.get_rng_state(), state)
    assert first.bytes == 12 * SAMPLE + 4 * (64 + 8 + 128 + 16)
    with torch.no_grad():
        model.layers[1].weight *= 1.1
    assert first.measure() == second.measure()
    assert first.measure()["policy/layers.1"] == pytest.approx(0.1, rel=0.02)


def test_layers_that_are_frozen_or_began_at_zero_are_not_there(model: Blocks) -> None:
    model.layers[0].requires_grad_(False)
    nn.init.zeros_(model.head.weight)
    assert set(Drift({"policy": model}).measure()) == {"policy/layers.1", "policy/all"}


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.3.mlp.up_proj.weight", "model.layers.3"),
        ("base_model.model.model.layers.3.q_proj.lora_A.default.weight", "model.layers.3"),
        ("module.transformer.h.11.attn.c_attn.weight", "transformer.h.11"),
        ("model.embed_tokens.weight", "model.embed_tokens"),
        ("lm_head.weight", "lm_head"),
    ],
)
def test_a_layer_is_a_block_or_a_module_outside_of_blocks(name: str, layer: str) -> None:
    assert layer_of(name) == layer


class Accelerator:
    """As much of one as clips."""

    def clip_grad_norm_(self, parameters: Any, max_norm: float) -> torch.Tensor:
        return nn.utils.clip_grad_norm_(list(parameters), max_norm)


class Trainer:
    accelerator = Accelerator()


@pytest.mark.parametrize("max_norm", [None, 0.5, 1e9])
def test_gradient_norms_are_those_before_clipping(model: Blocks, max_norm: float | None) -> None:
    other = nn.Linear(4, 4)
    norms = GradientNorms({"policy": model, "value": other})
    optimizer = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.0)
    trainer = Trainer()
    with norms.watching(trainer):
        for scale in (3.0, 7.0, 2.0):
            for parameter in [*model.parameters(), *other.parameters()]:
                parameter.grad = torch.full_like(parameter, scale)
            if max_norm is not None:
                trainer.accelerator.clip_grad_norm_([*model.parameters(), *other.parameters()], max_norm)
            optimizer.step()
    size = sum(p.numel() for p in model.parameters())
    assert norms.take() == pytest.approx({"policy": 7 * size**0.5, "value": 7 * 20**0.5}, rel=1e-4)
    assert norms.take() == {}
    optimizer.step()
    assert norms.take() == {}  # nobody watches any more
    assert "clip_grad_norm_" not in vars(trainer.accelerator)


def test_two_may_watch_one_trainer(model: Blocks) -> None:
    both = [GradientNorms({"policy": model}) for _ in range(2)]
    trainer = Trainer()
    with both[0].watching(trainer), both[1].watching(trainer):
        model.head.weight.grad = torch.ones_like(model.head.weight)
        trainer.accelerator.clip_grad_norm_(list(model.parameters()), 0.5)
        torch.optim.SGD(model.parameters(), lr=0.0).step()
    size = model.head.weight.numel() ** 0.5
    assert [norms.take() for norms in both] == [pytest.approx({"policy": size}, rel=1e-4)] * 2
    assert "clip_grad_norm_" not in vars(trainer.accelerator)


def test_a_nan_gradient_is_not_lost_between_two_records(model: Blocks) -> None:
    norms = GradientNorms({"policy": model})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with norms.watching(Trainer()):
        for value in (1.0, float("nan"), 1.0):
            model.head.weight.grad = torch.full_like(model.head.weight, value)
            optimizer.step()
    assert norms.take()["policy"] != norms.take().get("policy", 0.0)  # NaN is not itself


def test_an_optimiser_of_another_model_is_not_ours(model: Blocks) -> None:
    other = nn.Linear(2, 2)
    norms = GradientNorms({"policy": model})
    with norms.watching(Trainer()):
        model.head.weight.grad = torch.ones_like(model.head.weight)
        torch.optim.SGD(other.parameters(), lr=0.0).step()
    assert norms.take() == {}


def test_the_factor_of_clipping() -> None:
    assert clip_factor(torch.tensor(4.0), 1.0) == pytest.approx(0.25)
    assert clip_factor(0.5, 1.0) == 1.0
    assert clip_factor(None, 1.0) == clip_factor(2.0, 0.0) == clip_factor(float("nan"), 1.0) == 1.0


def test_names_are_the_same_for_every_trainer() -> None:
    ppo = columns_of(
        {"objective/kl": 8.0, "length": 4.0, "objective/scores": 1.0, "policy/entropy_avg": 2.0, "lr": 0.1}
    )
    assert ppo == {"kl": 8.0, "reward": 1.0, "entropy": 2.0, "learning_rate": 0.1}
    grpo = columns_of({"kl": 0.5, "completions/mean_length": 4.0, "reward": 1.0, "reward_std": 0.2, "grad_norm": 3.0})
    assert grpo == {
        "kl": 0.5,
        "kl_per_token": 0.5,
        "reward": 1.0,
        "length": 4.0,
        "reward_std": 0.2,
        "grad_norm/all": 3.0,
    }
    assert columns_of({"loss": "low", "lr": True}) == {}
    assert not_finite({"a": float("inf"), "b": float("nan"), "c": 1.0, "d": "x"}) == ["a", "b"]

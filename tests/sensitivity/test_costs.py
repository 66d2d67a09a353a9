"""What is measured, against computations that share nothing with the profiler but the cast of one tensor."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mx_plugin import fake_quantize
from mx_plugin.sensitivity import Batch, ProfileError, profile
from tests.sensitivity.tiny import LAYERS, VOCABULARY, TinyModel, TinyScorer, tiny_batches


class Quantised(nn.Linear):
    """W and X cast along ``in``, multiplied in float32; backward as if nothing had been cast."""

    weights, activations = "MXFP4", "MXFP8"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = fake_quantize(self.weight, self.weights, -1, scale_rule="rceil")
        a = fake_quantize(x, self.activations, -1, scale_rule="rceil")
        plain = nn.functional.linear(x, self.weight, self.bias)
        return plain + (nn.functional.linear(a, w, self.bias) - plain).detach()


def with_quantised(model: nn.Module, names: list[str]) -> nn.Module:
    """A copy of which these layers are quantised by hand."""
    found = copy.deepcopy(model).eval()
    for name in names:
        found.get_submodule(name).__class__ = Quantised
    return found


def kl_by_hand(p: torch.Tensor, q: torch.Tensor, masks: torch.Tensor) -> float:
    """Float64 all the way, by the definition: sum of p log p/q over the vocabulary, mean over counted positions."""
    p64, q64 = p.detach().numpy().astype(np.float64), q.detach().numpy().astype(np.float64)
    p64, q64 = (np.exp(z - z.max(-1, keepdims=True)) for z in (p64, q64))
    p64, q64 = (z / z.sum(-1, keepdims=True) for z in (p64, q64))
    each = (p64 * np.log(p64 / q64)).sum(-1)
    return float(each[masks.numpy()].mean())


def logits(model: nn.Module, batches: list[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        found = [model(batch.inputs["input_ids"]) for batch in batches]
    return torch.cat(found), torch.cat([batch.inputs["attention_mask"].bool() for batch in batches])


def test_kl_of_each_layer_alone_and_left_out_is_that_of_an_independent_computation(model: TinyModel) -> None:
    batches = tiny_batches()
    everything = [*LAYERS, "lm_head"]
    found = profile(model, batches, formats=["MXFP4"], phases=["rollout"], backend="reference")
    plain, mask = logits(model, batches)
    alone, left_out = found.costs("kl"), found.costs("kl_all_but")
    for name in everything:
        expected = kl_by_hand(plain, logits(with_quantised(model, [name]), batches)[0], mask)
        assert alone[name, "MXFP4"] == pytest.approx(expected, rel=1e-3)
        others = [other for other in everything if other != name]
        expected = kl_by_hand(plain, logits(with_quantised(model, others), batches)[0], mask)
        assert left_out[name, "MXFP4"] == pytest.approx(expected, rel=1e-3)
    expected = kl_by_hand(plain, logits(with_quantised(model, everything), batches)[0], mask)
    assert [w.cost for w in found.whole] == [pytest.approx(expected, rel=1e-3)]


def test_a_pair_quantises_activations_as_it_says(model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quantised, "weights", "MXFP8")
    monkeypatch.setattr(Quantised, "activations", "MXFP4")
    batches = tiny_batches()
    found = profile(model, batches, formats=["MXFP8/MXFP4"], phases=["rollout"], backend="reference")
    plain, mask = logits(model, batches)
    expected = kl_by_hand(plain, logits(with_quantised(model, ["blocks.1.up"]), batches)[0], mask)
    assert found.costs("kl")["blocks.1.up", "MXFP8/MXFP4"] == pytest.approx(expected, rel=1e-3)


def test_gradient_error_and_cosine_are_those_of_an_independent_computation(model: TinyModel) -> None:
    batches = tiny_batches()
    found = profile(model, batches, formats=["MXFP4"], phases=["gradient"], backend="reference")

    def gradient(of: nn.Module) -> np.ndarray[Any, Any]:
        tokens = torch.cat([b.inputs["input_ids"] for b in batches])
        mask = torch.cat([b.inputs["attention_mask"].bool() for b in batches])
        log_p = torch.log_softmax(of(tokens), -1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
        loss = -log_p[mask[:, 1:]].mean()
        parts = torch.autograd.grad(loss, [p for p in of.parameters() if p.requires_grad])
        return torch.cat([part.flatten() for part in parts]).double().numpy()

    plain = gradient(model)
    quantised = gradient(with_quantised(model, ["blocks.1.down"]))
    error = np.linalg.norm(quantised - plain) / np.linalg.norm(plain)
    cosine = quantised @ plain / np.linalg.norm(quantised) / np.linalg.norm(plain)
    key = ("blocks.1.down", "MXFP4")
    forward = found.costs("gradient_error_forward", phase="gradient")[key]
    assert forward == pytest.approx(error, rel=1e-3)
    assert found.costs("gradient_cosine_forward", phase="gradient")[key] == pytest.approx(1 - cosine, rel=1e-3)
    assert found.costs("gradient_error", phase="gradient")[key] > forward


def test_the_output_head_is_profiled_in_rollout_alone(model: TinyModel) -> None:
    found = profile(model, tiny_batches(), formats=["MXFP8"])
    assert {row.phase for row in found.rows if row.layer == "lm_head"} == {"rollout"}
    assert {row.layer for row in found.rows if row.phase == "gradient"} == set(LAYERS)


def test_scores_are_counted_in_standard_deviations_and_pairs_that_change_order(model: TinyModel) -> None:
    scorer, pairs = TinyScorer(), [tuple(tiny_batches(2, seed)) for seed in (5, 6)]
    found = profile(
        model, tiny_batches(), models={"reward": scorer}, pairs=pairs, formats=["MXFP4"], phases=["reward"],
        backend="reference",
    )  # fmt: skip

    def scores(of: nn.Module) -> np.ndarray[Any, Any]:
        values = [of(b.inputs["input_ids"])[..., 0].detach() for pair in pairs for b in pair]
        last = [b.inputs["attention_mask"].sum(1) - 1 for pair in pairs for b in pair]
        picked = [v[torch.arange(len(v)), end] for v, end in zip(values, last, strict=True)]
        return torch.cat(picked).double().numpy()

    plain, quantised = scores(scorer), scores(with_quantised(scorer, ["blocks.0.up"]))
    expected = np.sqrt(np.mean((quantised - plain) ** 2)) / plain.std(ddof=1)
    key = ("blocks.0.up", "MXFP4")
    assert found.costs("score_error", phase="reward", role="reward")[key] == pytest.approx(expected, rel=1e-3)
    order = [np.sign(s.reshape(2, 2, 3)[:, 0] - s.reshape(2, 2, 3)[:, 1]) for s in (plain, quantised)]
    flipped = float(np.mean(order[0] != order[1]))
    assert found.costs("rank_disagreement", phase="reward", role="reward")[key] == pytest.approx(flipped)


def test_a_critic_is_scored_at_every_counted_position(model: TinyModel) -> None:
    critic, batches = TinyScorer(), tiny_batches()
    found = profile(model, batches, models={"value": critic}, formats=["MXFP4"], phases=["reward"], backend="reference")
    mask = torch.cat([b.mask for b in batches]).numpy()
    plain, quantised = (
        logits(of, batches)[0][..., 0].double().numpy()[mask]
        for of in (critic, with_quantised(critic, ["blocks.2.up"]))
    )
    expected = np.sqrt(np.mean((quantised - plain) ** 2)) / plain.std(ddof=1)
    costs = found.costs("score_error", phase="reward", role="value")
    assert costs["blocks.2.up", "MXFP4"] == pytest.approx(expected, rel=1e-3)


def test_a_reference_is_compared_like_the_policy_and_a_critic_by_the_loss_that_is_given(model: TinyModel) -> None:
    found = profile(
        model, tiny_batches(), models={"reference": copy.deepcopy(model), "value": TinyScorer()},
        losses={"value": lambda values, batch: values[..., 0][batch.mask].square().mean()}, formats=["MXFP4"],
    )  # fmt: skip
    scopes = dict.fromkeys((row.phase, row.role) for row in found.rows)
    assert [f"{phase}/{role}" for phase, role in scopes] == [
        "rollout/policy",
        "reward/value",
        "reward/reference",
        "gradient/policy",
        "gradient/value",
    ]
    rollout = found.costs("kl")
    reference = found.costs("kl", phase="reward", role="reference")
    assert reference == {key: rollout[key] for key in reference} and len(reference) == len(LAYERS)


@pytest.mark.parametrize("phase", ["rollout", "gradient"])
@pytest.mark.parametrize("culprit", ["blocks.0.down", "blocks.1.up", "blocks.2.down"])
def test_a_layer_given_outlier_weights_comes_out_most_sensitive(culprit: str, phase: str) -> None:
    model = TinyModel()
    with torch.no_grad():
        # One weight in each block is forty times the largest of its neighbours, which MXFP4 then rounds to 0.
        layer = model.get_submodule(culprit)
        layer.weight[:, ::32] = 40 * layer.weight.abs().max()
        if culprit.endswith("down"):
            # Those inputs are silent: else the layer before, whose errors are now multiplied by forty, is to blame too.
            before = model.get_submodule(culprit.replace("down", "up"))
            before.weight[::32], before.bias[::32] = 0.0, -100.0
    metric = "kl" if phase == "rollout" else "gradient_error"
    found = profile(model, tiny_batches(4), formats=["MXFP4"], phases=[phase], exclude=["lm_head"])
    costs = found.costs(metric, phase=phase)
    assert max(costs, key=costs.__getitem__) == (culprit, "MXFP4")
    spared = found.costs(metric + "_all_but", phase=phase)
    assert min(spared, key=spared.__getitem__) == (culprit, "MXFP4")


def test_nan_in_the_unquantised_model_is_refused_with_the_batch(model: TinyModel) -> None:
    with torch.no_grad():
        model.embed.weight[7] = math.nan
    batches = [Batch({"input_ids": torch.full((1, 4), 3)}), Batch({"input_ids": torch.full((1, 4), 7)})]
    with pytest.raises(ProfileError, match=r"policy: the unquantised model gives logits that are NaN .* in batch 1"):
        profile(model, batches, phases=["rollout"])
    with pytest.raises(ProfileError, match="gradient of the unquantised model has norm nan"):
        profile(model, batches, phases=["gradient"])


def test_a_format_that_breaks_the_model_costs_infinity_and_never_nan(caplog: pytest.LogCaptureFixture) -> None:
    class Brittle(TinyModel):
        """NaN as soon as the last block's output has lost a bit."""

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
            out = super().forward(input_ids)
            now = float(self.hidden(input_ids).detach().double().sum())
            seen = self.__dict__.setdefault("seen", {})
            return out if seen.setdefault(input_ids.numpy().tobytes(), now) == now else out * math.nan

    found = profile(Brittle(), tiny_batches(), formats=["MXFP4"], phases=["rollout"])
    assert found.costs("kl")["blocks.0.up", "MXFP4"] == math.inf
    assert not any(math.isnan(row.cost) for row in found.rows)
    assert "NaN or infinite outputs; kl is written as infinite" in caplog.text
    choice = next(c for c in found.matrix().choose(1e9) if c.layer == "blocks.0.up")
    assert choice.format == "FP16"


def test_a_layer_that_never_runs_gets_no_row_instead_of_a_cost_of_zero(caplog: pytest.LogCaptureFixture) -> None:
    model = TinyModel()
    model.spare = nn.Linear(32, 32)  # type: ignore[assignment]
    found = profile(model, tiny_batches(), formats=["MXFP4"], phases=["rollout"])
    assert "spare" not in {row.layer for row in found.rows}
    assert "no pass executes spare" in caplog.text


def test_models_are_left_as_they_were(model: TinyModel) -> None:
    model.train()
    model.blocks[1].eval()
    loss = model(torch.randint(VOCABULARY, (2, 5))).square().mean()
    loss.backward()
    before = {name: (p.detach().clone(), p.grad.clone()) for name, p in model.named_parameters() if p.grad is not None}
    scorer, state = TinyScorer(), torch.random.get_rng_state()
    profile(model, tiny_batches(), models={"reward": scorer}, formats=["MXFP4"])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training and not model.blocks[1].training
    assert type(model.blocks[0].up) is nn.Linear and "forward" not in model.blocks[0].__dict__
    assert all(p.requires_grad for p in model.parameters())
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name][0]) and torch.equal(p.grad, before[name][1])  # type: ignore[arg-type]

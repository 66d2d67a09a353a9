"""Rollout correction: the sampler's log-probs are those of the rollout formats, and the loss is weighed by them."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from mx_plugin import fake_quantize
from mx_plugin.config import MXConfig

from .trainers import TRUNK, Workshop

pytest.importorskip("trl")

from transformers import GenerationMixin

from mx_trl import MXCallback
from mx_trl.correction import rollout_correction
from mx_trl.correction.recorder import CorrectionError
from mx_trl.correction.weights import WeightLog, effective_share

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder

MX = """
version: 1
name: mx
lm_head: {rollout: MXFP8}
defaults: {rollout: MXFP4, reward: MXFP6, gradient: {forward: MXFP8/MXFP8, dgrad: FP16, wgrad: FP16}}
"""

KINDS = ["grpo", "rloo"]
TEMPERATURE = 1.6


@pytest.fixture
def workshop(embedded: EmbeddedFolder, tmp_path: Path) -> Workshop:
    return Workshop(embedded, tmp_path)


@pytest.fixture
def mx(tmp_path: Path) -> str:
    path = tmp_path / "mx.yaml"
    path.write_text(MX)
    return str(path)


def keeping(kind: str) -> type:
    """The trainer's class; instances keep what each generation and each loss was made of."""
    import trl

    base = {"grpo": trl.GRPOTrainer, "rloo": trl.RLOOTrainer}[kind]

    class Keeping(base):  # type: ignore[misc, valid-type]
        def _prepare_inputs(self, inputs: Any) -> Any:
            found = super()._prepare_inputs(inputs)
            self.__dict__.setdefault("kept", []).append({k: copy.copy(v) for k, v in found.items()})
            return found

        def _compute_loss(self, model: Any, inputs: Any, *rest: Any) -> Any:
            loss = super()._compute_loss(model, inputs, *rest)
            if loss.requires_grad:
                parameters = [p for p in model.parameters() if p.requires_grad]
                gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
                self.__dict__.setdefault("gradients", []).append(torch.cat([g.flatten() for g in gradients]))
            return loss

    return Keeping


def trained(workshop: Workshop, kind: str, policy: str, level: str, **config: Any) -> Any:
    callback = MXCallback(policy=policy, output_dir=workshop.folder, rollout_correction=level, mismatch_every=0)
    settings = {"temperature": TEMPERATURE, "max_steps": 1, "logging_steps": 1} | config
    trainer = workshop.trainer(kind, [callback], cls=keeping(kind), **settings)
    trainer.train()
    return trainer


class Cast(nn.Linear):
    """W and X cast along ``in`` and multiplied in float32: what a layer computes in MX, by itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = fake_quantize(self.weight, self.mx_weights, -1, scale_rule="rceil")  # type: ignore[arg-type]
        return nn.functional.linear(fake_quantize(x, "MXFP8", -1, scale_rule="rceil"), weights, self.bias)


def log_probs(workshop: Workshop, batch: dict[str, Any], trunk: str, head: str | None) -> torch.Tensor:
    """Of the completions' tokens under the initial model in these weight formats: each sequence alone, no cache."""
    model = workshop.policy().eval()
    for name, module in model.named_modules():
        if name.endswith(TRUNK) or (head and name == "lm_head"):
            module.__class__ = Cast
            module.mx_weights = head if name == "lm_head" else trunk
    found = torch.zeros(batch["completion_ids"].shape)
    with torch.no_grad():
        for row in range(len(found)):
            prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
            tokens = batch["completion_ids"][row][batch["completion_mask"][row].bool()]
            logits = model(torch.cat([prompt, tokens])[None]).logits[0, len(prompt) - 1 : -1]
            all_of = torch.log_softmax(logits.float() / TEMPERATURE, -1)
            found[row, : len(tokens)] = all_of.gather(-1, tokens[:, None])[:, 0]
    return found


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("grpo", "token"),
        ("rloo", "sequence"),
        pytest.param("grpo", "sequence", marks=pytest.mark.slow),
        pytest.param("rloo", "token", marks=pytest.mark.slow),
    ],
)
def test_recorded_log_probs_and_weights_are_those_of_independent_forwards(
    workshop: Workshop, mx: str, kind: str, level: str
) -> None:
    batch = trained(workshop, kind, mx, level).kept[0]
    mask = batch["completion_mask"]
    sampled = log_probs(workshop, batch, "MXFP4", "MXFP8")
    assert torch.allclose(batch["sampling_per_token_logps"] * mask, sampled, atol=2e-3)
    trained_in = log_probs(workshop, batch, "MXFP8", None)
    assert not torch.allclose(trained_in, sampled, atol=2e-2)  # or the formats would not matter here
    difference = trained_in - sampled
    expected = (difference.sum(-1, keepdim=True) if level == "sequence" else difference).exp().clamp(max=3.0)
    counted = mask.bool() if level == "token" else torch.ones_like(expected, dtype=torch.bool)
    assert torch.allclose(batch["importance_sampling_ratio"][counted], expected[counted], rtol=2e-2)


@pytest.mark.parametrize("level", ["token", pytest.param("sequence", marks=pytest.mark.slow)])
def test_rloos_gradient_is_weighed_token_by_token_or_sequence_by_sequence(
    workshop: Workshop, mx: str, level: str
) -> None:
    """At the first update every ratio is 1, so the gradient is that of -A sum_t w_t log p_t, averaged."""
    config = {"beta": 0.0, "gradient_accumulation_steps": 1}
    trainer = trained(workshop, "rloo", mx, level, **config)
    batch, initial = trainer.kept[0], workshop.policy()
    assert float(batch["advantages"].abs().max()) > 0
    weights = batch["importance_sampling_ratio"] * batch["completion_mask"]
    plain = trained(workshop, "rloo", mx, "off", **config)
    assert torch.equal(plain.kept[0]["completion_ids"], batch["completion_ids"])
    assert not torch.allclose(trainer.gradients[0], plain.gradients[0])
    # The same trainer, uncorrected, on advantages that carry the weights: right where a sequence has one weight.
    scaled = trained_by_hand(initial, batch, weights)
    cosine = torch.nn.functional.cosine_similarity(trainer.gradients[0], scaled, dim=0)
    assert float(cosine) > 0.999
    assert float(trainer.gradients[0].norm() / scaled.norm()) == pytest.approx(1, rel=0.02)
    wrong = trained_by_hand(initial, batch, batch["completion_mask"].float())
    assert float((trainer.gradients[0] - scaled).norm()) < 0.5 * float((trainer.gradients[0] - wrong).norm())


def trained_by_hand(model: nn.Module, batch: dict[str, Any], weights: torch.Tensor) -> torch.Tensor:
    """The gradient of -mean_i A_i sum_t w_it log p_it, in the gradient formats with straight-through casts."""

    class Through(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            w = self.weight + (fake_quantize(self.weight, "MXFP8", -1, scale_rule="rceil") - self.weight).detach()
            a = x + (fake_quantize(x, "MXFP8", -1, scale_rule="rceil") - x).detach()
            return nn.functional.linear(a, w, self.bias)

    model = copy.deepcopy(model).train()
    for name, module in model.named_modules():
        if name.endswith(TRUNK):
            module.__class__ = Through
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    kept = batch["completion_ids"].shape[1]
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -kept - 1 : -1].float() / TEMPERATURE
    picked = torch.log_softmax(logits, -1).gather(-1, batch["completion_ids"][..., None])[..., 0]
    loss = -(batch["advantages"] * (weights * picked).sum(1)).mean()
    gradients = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    return torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("kind", KINDS)
def test_where_formats_are_alike_weights_are_one_and_nothing_changes(workshop: Workshop, kind: str) -> None:
    corrected = trained(workshop, kind, "A", "token")
    plain = trained(workshop, kind, "A", "off")
    batch = corrected.kept[0]
    weights = batch["importance_sampling_ratio"][batch["completion_mask"].bool()]
    assert torch.allclose(weights, torch.ones_like(weights), atol=1e-4)
    assert torch.allclose(corrected.gradients[0], plain.gradients[0], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_in_the_trainers_log_and_everything_is_put_back(workshop: Workshop, mx: str, kind: str) -> None:
    build = GenerationMixin._get_logits_processor
    trainer = trained(workshop, kind, mx, "sequence", eval_strategy="steps", eval_steps=1, max_steps=2)
    entry = trainer.state.log_history[0]
    assert 0 < entry["mx/correction/ess"] <= 1
    assert entry["mx/correction/min"] <= entry["mx/correction/mean"] <= entry["mx/correction/max"] <= 3.0
    assert 0 <= entry["mx/correction/truncated"] <= 1
    if kind == "grpo":
        ratio = entry["sampling/importance_sampling_ratio/mean"]  # TRL's own
        assert entry["mx/correction/mean"] == pytest.approx(ratio, rel=1e-3)
    assert GenerationMixin._get_logits_processor is build
    assert trainer.use_vllm is False
    shadows = {"_compute_loss", "_generate_single_turn", "_generate", "_generate_and_score_completions"}
    assert not shadows & set(trainer.__dict__)
    if kind == "grpo":
        assert trainer.vllm_importance_sampling_mode == trainer.args.vllm_importance_sampling_mode


def test_the_effective_sample_size_is_kishs_and_warns_below_a_tenth(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    assert effective_share(torch.tensor([2.0, 2.0, 2.0])) == pytest.approx(1)
    assert effective_share(torch.tensor([1.0, 0.0, 0.0, 0.0])) == pytest.approx(0.25)
    trainer = workshop.trainer("grpo")
    weights = torch.cat([torch.tensor([[3.0]]), torch.full((31, 1), 1e-3)])
    with caplog.at_level(logging.INFO):
        WeightLog(trainer, "sequence", 3.0).add(weights, torch.ones(32, 4))
    assert "effective sample size 0.032 of 32 sequences" in caplog.text
    assert "below 0.1: the update rests on few samples" in caplog.text
    assert trainer._metrics["train"]["mx/correction/truncated"] == [1 / 32]


def test_what_cannot_be_corrected_is_one_clear_error(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    token = MXConfig(rollout_correction="token")
    with pytest.raises(CorrectionError, match="is for GRPOTrainer and RLOOTrainer, not SFTTrainer; set it to 'off'"):
        rollout_correction(workshop.trainer("sft"), token)
    trainer = workshop.trainer("grpo")
    with pytest.raises(CorrectionError, match="leave policy_scoring at 'gradient'"):
        rollout_correction(trainer, token.merged({"policy_scoring": "rollout"}))
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "rollout_func", lambda *_: None, raising=False)
        with pytest.raises(CorrectionError, match="this trainer samples by a rollout_func"):
            rollout_correction(trainer, token)
    with monkeypatch.context() as patch:
        patch.delattr(type(trainer), "_generate_single_turn")
        with pytest.raises(CorrectionError, match=r"GRPOTrainer of TRL 1\.\d+.* has no _generate_single_turn"):
            rollout_correction(trainer, token)


def test_by_default_tokens_are_weighed_where_the_formats_differ_and_nowhere_else(workshop: Workshop, mx: str) -> None:
    def logged(kind: str, policy: str) -> set[str]:
        callback = MXCallback(policy=policy, output_dir=workshop.folder, mismatch_every=0, on_unhit="warn")
        trainer = workshop.trainer(kind, [callback], max_steps=1, logging_steps=1)
        trainer.train()
        return {key for entry in trainer.state.log_history for key in entry if key.startswith("mx/correction/")}

    assert logged("grpo", mx)
    assert not logged("grpo", "A"), "policy A stays TRL's own run"
    assert not logged("sft", mx), "nothing is sampled"


def test_by_default_what_cannot_be_corrected_is_warned_of(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = workshop.trainer("grpo")
    monkeypatch.setattr(trainer, "rollout_func", lambda *_: None, raising=False)
    with rollout_correction(trainer, MXConfig(), formats_differ=False):
        assert not caplog.text
    with rollout_correction(trainer, MXConfig(), formats_differ=True):
        assert "which is not corrected" in caplog.text and "rollout_func" in caplog.text


def test_under_vllm_trl_corrects_and_we_do_nothing(workshop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    trainer = workshop.trainer("grpo")
    trainer.use_vllm = True
    with caplog.at_level(logging.INFO), rollout_correction(trainer, MXConfig(rollout_correction="token")):
        assert "_compute_loss" not in trainer.__dict__
    assert "TRL's own correction weighs them" in caplog.text


def test_a_correction_that_trl_was_told_to_leave_out_under_vllm_is_missed(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = workshop.trainer("grpo")
    trainer.use_vllm, trainer.vllm_importance_sampling_correction = True, False
    with rollout_correction(trainer, MXConfig(), formats_differ=False):
        assert not caplog.text
    with rollout_correction(trainer, MXConfig(), formats_differ=True):
        assert "vllm_importance_sampling_correction=False leaves that uncorrected" in caplog.text

"""Real trainers of TRL beside a real vLLM on the CPU: what it held at every generation, and what the books say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import pytest
import torch

from tests.vllm.oracle import expected, rounded
from tests.vllm.runs import Run

Trained = Callable[[str], Run]
STEPS = 3
MODULES = [
    *(f"model.layers.{i}.{name}" for i in (0, 1) for name in
      ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")),
    "lm_head",
]  # fmt: skip
C = {name: "MXFP8" if name == "lm_head" else "MXFP4" for name in MODULES}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def holds(snapshot: dict[str, dict[str, torch.Tensor]], formats: dict[str, str]) -> list[str]:
    """Modules of vLLM whose weight is not the trainer's, cast by the oracle to these formats."""
    held, trained = snapshot["held"], snapshot["trained"]
    return [name for name in MODULES if not torch.equal(held[f"{name}.weight"], expected(trained, name, formats))]


def test_the_oracle_tells_formats_apart() -> None:
    weight = torch.randn(8, 144)
    four, eight = rounded(weight, "MXFP4"), rounded(weight, "MXFP8")
    assert not torch.equal(four, eight) and not torch.equal(eight, weight.double())
    assert (four - weight).abs().max() > (eight - weight).abs().max() > 0


@pytest.mark.parametrize("name", ["grpo_lora", "rloo", "online_dpo"])
def test_vllm_holds_the_trainers_weights_rounded_at_every_rollout(name: str, trained: Trained) -> None:
    """With adapters: merged, then rounded."""
    snapshots = trained(name).snapshots()
    assert [snapshot["step"] for snapshot in snapshots] == list(range(STEPS))
    for snapshot in snapshots:
        assert holds(snapshot, C) == [], snapshot["step"]
    first, last = snapshots[0]["held"], snapshots[-1]["held"]
    assert any(not torch.equal(first[key], last[key]) for key in first), "training changed no weight in vLLM"


def test_an_evaluation_before_and_after_training_sees_unrounded_weights_and_rollouts_rounded_ones(
    trained: Trained,
) -> None:
    """TRL syncs when the step has changed, and an evaluation before step 1 has synced step 0 already."""
    snapshots = trained("grpo").snapshots()
    rolled = [snapshot for snapshot in snapshots if holds(snapshot, C) == []]
    assert [snapshot["step"] for snapshot in rolled] == list(range(STEPS))
    others = [snapshot for snapshot in snapshots if holds(snapshot, C)]
    assert {snapshot["step"] for snapshot in others} == {0, STEPS}
    assert all(holds(snapshot, {}) == [] for snapshot in others)


def test_fused_siblings_share_the_widest_format_and_config_names_it(trained: Trained) -> None:
    run = trained("grpo_mixed")
    projected = "model.layers.0.self_attn.qkv_proj"
    formats = {**C, projected: "MXFP8"}
    assert all(holds(snapshot, formats) == [] for snapshot in run.snapshots())
    told = run.config["rollout"]
    assert told["formats"] == formats
    assert told["projected"] == {projected: "q_proj MXFP4, k_proj MXFP8, v_proj MXFP4"}
    rolled = run.config["formats"]["policy"]["rollout"]
    assert {rolled[f"model.layers.0.self_attn.{x}_proj"] for x in "qkv"} == {"MXFP8/FP16"}
    assert rolled["model.layers.1.self_attn.q_proj"] == "MXFP4/FP16"


@pytest.mark.parametrize("name", ["grpo", "rloo", "online_dpo"])
def test_the_books_tell_of_weights_only_rollouts(name: str, trained: Trained) -> None:
    run = trained(name)
    told = run.config["rollout"]
    assert (told["engine"], told["mode"], told["execution"]) == ("vllm", "colocate", "weights-only")
    assert told["synced"] == STEPS and told["formats"] == C and told["dtype"] == "bfloat16"
    rows = run.rows("energy.csv")
    rolled = [row for row in rows if row["phase"] == "rollout" and row["role"] == "policy" and "only" in row["format"]]
    assert {row["format"] for row in rolled} == {"MXFP4/FP16+weights-only", "MXFP8/FP16+weights-only"}
    assert all(row["bytes"] == row["joules"] == "" and int(row["macs"]) > 0 for row in rolled)
    assert len({row["step"] for row in rolled}) == STEPS
    seconds: dict[str, float] = defaultdict(float)
    for row in rows:
        seconds[row["phase"]] += float(row["seconds"] or 0)
    assert min(seconds[phase] for phase in ("rollout", "reward", "gradient", "other")) > 0
    assert "rollout" not in run.config["hits"].get("policy", {}), "no layer of this process rolls out"


def test_macs_of_rollouts_are_those_of_their_tokens(trained: Trained) -> None:
    run = trained("grpo")
    head, trunk = 64 * 64, 2 * (64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 144)
    tokens = [entry["num_tokens"] for entry in run.result["log"] if "loss" in entry]  # of prompts and completions
    lengths = [entry["completions/mean_length"] * 4 for entry in run.result["log"] if "loss" in entry]
    macs = {
        (int(row["step"]), row["format"][:5]): int(row["macs"])
        for row in run.rows("energy.csv")
        if row["phase"] == "rollout" and "only" in row["format"]
    }
    for step in range(STEPS):
        new = tokens[step] - (tokens[step - 1] if step else 0)
        assert macs[step + 1, "MXFP4"] == (new - 4) * trunk  # the last token of each of four is processed no more
        assert macs[step + 1, "MXFP8"] == lengths[step] * head


def test_what_the_probe_foretells_is_what_vllm_does(trained: Trained) -> None:
    """Mean |log-ratio| of rollout to training: of our own weights-only formats, and of the log-probs that vLLM gave."""
    run = trained("grpo")
    foretold, found = run.logged("mx/mismatch/mean_abs_logratio"), run.logged("sampling/sampling_logp_difference/mean")
    assert len(foretold) == len(found) == STEPS
    for one, other in zip(foretold, found, strict=True):
        assert one == pytest.approx(other, rel=0.1) and one > 0.1
    plain = trained("grpo_plain").logged("sampling/sampling_logp_difference/mean")
    assert max(plain) < min(found) / 5, "vLLM alone is far closer"


def test_trls_own_correction_stays_on_and_its_metrics_in_the_log(trained: Trained) -> None:
    run = trained("grpo")
    assert len(run.logged("sampling/importance_sampling_ratio/mean")) == STEPS
    assert all(row["ratio"] for row in run.rows("metrics.csv"))
    assert "TRL's own correction weighs them" in run.output
    assert "which is not corrected" in trained("rloo").output


@pytest.mark.parametrize("name", ["grpo", "grpo_lora", "rloo", "online_dpo"])
def test_trainer_and_engine_are_left_as_they_were(name: str, trained: Trained) -> None:
    result = trained(name).result
    assert result["restored"] and result["load_weights_restored"]


def test_policy_a_gives_the_losses_of_trl_alone(trained: Trained) -> None:
    plain, under_a = trained("grpo_plain"), trained("grpo_a")
    assert all(holds(snapshot, {}) == [] for snapshot in under_a.snapshots())
    for key in ("loss", "grad_norm", "reward", "entropy", "sampling/sampling_logp_difference/mean"):
        assert under_a.logged(key) == plain.logged(key) and len(plain.logged(key)) == STEPS, key
    rolled = {row["format"] for row in under_a.rows("energy.csv") if row["phase"] == "rollout" and row["macs"]}
    assert rolled == {"FP16"}

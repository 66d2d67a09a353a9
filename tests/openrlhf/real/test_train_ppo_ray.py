"""The real train_ppo_ray on Ray, DeepSpeed and vLLM: what every actor executed, and what vLLM held."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from tests.openrlhf.recipes import Run

Ppo = Callable[..., Run]
KINDS = [(policy, estimator) for estimator in ("group_norm", "gae") for policy in ("A", "C")]
ROLES = {"group_norm": {"policy", "reference"}, "gae": {"policy", "reference", "value", "reward"}}
STEPS = 3
"""The first update has a learning rate of 0, so the last step is the first whose policy is not the reference."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(params=KINDS, ids="-".join)
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


@pytest.fixture
def run(kind: tuple[str, str], ppo: Ppo) -> Run:
    done = ppo(*kind)
    assert done.status == 0, done.output[-5000:]
    return done


def config(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.files / "config.json").read_text())
    return found


def rows(run: Run, name: str) -> list[dict[str, str]]:
    with (run.files / name).open() as file:
        return list(csv.DictReader(file))


def test_every_actor_executed_every_layer_in_each_of_its_phases(run: Run, kind: tuple[str, str]) -> None:
    hits = config(run)["hits"]
    assert set(hits) == ROLES[kind[1]]
    for role, phases in hits.items():
        assert set(phases) == ({"reward", "gradient"} if role in ("policy", "value") else {"reward"}), role
        for by_layer in phases.values():
            trunk = [name for name in by_layer if name.startswith("model.layers.")]
            assert len(trunk) == 14 and min(by_layer.values()) >= STEPS


def test_formats_are_the_policys_by_role_and_phase(run: Run, kind: tuple[str, str]) -> None:
    formats = config(run)["formats"]
    layer = "model.layers.1.mlp.down_proj"
    quantised = "MXFP8/MXFP8" if kind[0] == "C" else "FP16"
    rolled = {"A": "FP16", "C": "MXFP4/FP16"}[kind[0]]
    assert formats["policy"]["rollout"][layer] == rolled and "rollout" not in formats["reference"]
    # C trains unquantised, and reference: match scores the reference as the policy's log-probs are computed.
    assert formats["policy"]["reward"][layer] == formats["reference"]["reward"][layer] == "FP16"
    for role in ROLES[kind[1]] - {"policy", "reference"}:
        assert formats[role]["reward"][layer] == quantised


def test_work_of_all_actors_and_of_the_rollouts_is_in_one_file(run: Run, kind: tuple[str, str]) -> None:
    macs: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows(run, "energy.csv"):
        if row["macs"] and int(row["macs"]):
            macs[row["phase"], row["role"]].add(row["format"])
    rolled = {"MXFP4/FP16+weights-only", "MXFP8/FP16+weights-only"} if kind[0] == "C" else {"FP16"}
    assert macs["rollout", "policy"] == rolled
    for role in ROLES[kind[1]]:
        expected = {"FP16"} if role in ("policy", "reference") or kind[0] == "A" else {"MXFP8/MXFP8"}
        assert expected <= macs["reward", role], (role, macs)
    assert macs["gradient", "policy"] == {"FP16"}


def test_wall_time_is_partitioned_into_phases(run: Run) -> None:
    timed: dict[str, float] = defaultdict(float)
    for row in rows(run, "energy.csv"):
        timed[row["phase"]] += float(row["seconds"] or 0)
    assert {"rollout", "reward", "gradient", "other"} <= set(timed) and min(timed.values()) >= 0
    assert min(timed[phase] for phase in ("rollout", "reward", "gradient")) > 0


def test_ppo_kl_is_zero_before_the_first_update(run: Run) -> None:
    table = rows(run, "metrics.csv")
    assert len(table) == STEPS
    # One update a step, on log-probs of the same weights in the same formats.
    assert [float(row["ppo_kl"]) for row in table] == [0.0] * STEPS


def test_kl_begins_at_zero_and_does_not_stay_there(run: Run) -> None:
    kl = [float(row["kl"]) for row in rows(run, "metrics.csv")]
    assert kl[0] == 0.0 and kl[-1] != 0.0


def test_importance_correction_is_on_and_in_our_files(run: Run, kind: tuple[str, str]) -> None:
    table = rows(run, "metrics.csv")
    if kind[0] == "A":
        assert all(row["vllm_kl"] == row["is_filter_ratio"] == "" for row in table)
        return
    assert all(abs(float(row["vllm_kl"])) > 0 for row in table)
    assert all(0 <= float(row["is_filter_ratio"]) <= 1 for row in table)


# ------------------------------------------------------------------ inside vLLM

ELEMENTS = {"MXFP4": (ml_dtypes.float4_e2m1fn, 6.0), "MXFP8": (ml_dtypes.float8_e4m3fn, 448.0)}


def on_grid(weight: torch.Tensor, fmt: str) -> bool:
    """Whether each block of 32 along the rows is a power of two times values of the element type, by ml_dtypes."""
    dtype, largest = ELEMENTS[fmt]
    values = weight.float().numpy()
    for start in range(0, values.shape[1], 32):
        block = values[:, start : start + 32].astype(np.float64)
        amax = np.abs(block).max(axis=1, keepdims=True)
        top = np.ceil(np.log2(np.where(amax > 0, amax, 1.0) / largest))
        held = np.zeros(len(block), bool)
        for lower in (0, 1, 2):
            scaled = block / np.exp2(top - lower)
            within = np.abs(scaled) <= largest
            same = np.where(within, scaled, 0).astype(np.float32).astype(dtype).astype(np.float64) == scaled
            held |= (same & within).all(axis=1)
        if not held.all():
            return False
    return True


def snapshots(run: Run) -> list[dict[str, Any]]:
    return [torch.load(file, weights_only=True) for file in sorted((run.folder / "vllm").glob("*.pt"))]


def test_vllm_holds_rounded_weights_before_the_first_rollout_and_after_every_sync(
    run: Run, kind: tuple[str, str]
) -> None:
    held = snapshots(run)
    assert len(held) == 1 + STEPS
    parameters = held[1]["synced"]
    assert [snapshot["synced"] for snapshot in held] == [i * parameters for i in range(1 + STEPS)] and parameters > 14
    expected = "MXFP4" if kind[0] == "C" else "FP16"
    for snapshot in held:
        assert {fmt for name, fmt in snapshot["formats"].items() if name != "lm_head"} == {expected}
        for name, weight in snapshot["weights"].items():
            fmt = snapshot["formats"][name]
            assert fmt == "FP16" or on_grid(weight, fmt), name
    first, last = held[0]["weights"], held[-1]["weights"]
    assert any(not torch.equal(first[name], last[name]) for name in first), "training changed no weight in vLLM"


def test_the_check_of_the_grid_can_fail() -> None:
    weight = torch.randn(8, 144).to(torch.bfloat16)
    assert not on_grid(weight, "MXFP4") and not on_grid(weight, "MXFP8")


def test_what_vllm_loaded_is_the_rounded_checkpoint(run: Run, kind: tuple[str, str], model: Path) -> None:
    from safetensors.torch import load_file

    plain = load_file(model / "model.safetensors")
    name = "model.layers.0.self_attn"
    fused = torch.cat([plain[f"{name}.{x}_proj.weight"] for x in "qkv"])
    held = snapshots(run)[0]["weights"][f"{name}.qkv_proj"]
    if kind[0] == "A":
        assert torch.equal(held, fused)
        return
    # Half of the widest step of E2M1 (between 4 and 6) over a scale whose largest value may be just above amax / 2.
    assert not torch.equal(held, fused)
    assert ((held - fused).abs() <= fused.abs().amax(dim=1, keepdim=True) / 3).all()


def test_config_names_versions_worlds_and_recipe(run: Run, kind: tuple[str, str]) -> None:
    found = config(run)
    assert found["world_sizes"] == dict.fromkeys(ROLES[kind[1]], 1)
    assert found["versions"]["openrlhf"].startswith("0.11.") and found["rollout"]["execution"] == "weights-only"
    assert bool(found["recipe"]["added"]) == (kind[0] == "C")


# ------------------------------------------------------------------ policy A


def logged(run: Run) -> list[dict[str, float]]:
    """What OpenRLHF itself printed at each step."""
    numbers = r"'([\w/]+)': (-?[\d.]+(?:e-?\d+)?|nan)"
    found = re.findall(r"Global step \d+: (\{.*?\})", run.output)
    return [{key: float(value) for key, value in re.findall(numbers, text)} for text in found]


def test_policy_a_gives_the_losses_of_openrlhf_alone(ppo: Ppo) -> None:
    plain, under_a = ppo(None, "gae"), ppo("A", "gae")
    assert plain.status == 0, plain.output[-5000:]
    expected, found = logged(plain), logged(under_a)
    assert len(expected) == len(found) == STEPS
    for step, (one, other) in enumerate(zip(expected, found, strict=True)):
        for key in ("policy_loss", "critic_loss", "actor_grad_norm", "kl", "values", "rollout/reward_mean"):
            assert one[key] == other[key], (step, key)
    assert all(step["actor_grad_norm"] > 0 and step["critic_loss"] > 0 for step in expected)

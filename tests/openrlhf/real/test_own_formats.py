"""train_ppo_ray with a vLLM that executes MXFP8 by itself; its GPU kernel is stood in for by vLLM's emulation."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.openrlhf.recipes import Run
from tests.vllm.oracle import decoded, expected

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS = 3
NAMES = [
    f"model.layers.{i}.{x}" for i in (0, 1) for x in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj")
]
ROUNDED = ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj", "lm_head"]
"""144 inputs are no whole blocks, and vLLM quantises no head."""
FORMATS = dict.fromkeys([*NAMES, *ROUNDED], "MXFP8")


POLICY = """
version: 1
name: floor
scale_rule: floor
defaults: {rollout: MXFP8, reward: FP16, gradient: FP16}
lm_head: {rollout: MXFP8}
"""
"""Its scale rule is not vLLM's."""


@pytest.fixture
def run(ppo: Callable[..., Run], folder: Path) -> Run:
    (folder / "floor.yaml").write_text(POLICY)
    done = ppo(str(folder / "floor.yaml"), "group_norm", True)
    assert done.status == 0, done.output[-5000:]
    return done


def differing(snapshot: dict[str, dict[str, torch.Tensor]], folder: Path) -> list[str]:
    """Modules of vLLM that do not hold the weights saved in ``folder`` as the oracle casts them."""
    from safetensors.torch import load_file

    plain = load_file(folder / "model.safetensors")
    found = dict(snapshot["weights"])
    found |= {name: decoded(found[name], scales) for name, scales in snapshot["scales"].items()}
    return [x for x in FORMATS if not torch.equal(found[x].double(), expected(plain, x, FORMATS, "floor").double())]


def test_vllm_holds_codes_of_the_checkpoint_first_and_of_the_trained_weights_last(run: Run, model: Path) -> None:
    held = [torch.load(file, weights_only=True) for file in sorted((run.folder / "vllm").glob("*.pt"))]
    assert len(held) == 1 + STEPS
    for snapshot in held:
        assert {snapshot["weights"][name].dtype for name in NAMES} == {torch.float8_e4m3fn}
        assert set(snapshot["own"]) == set(snapshot["scales"]) == set(NAMES) and snapshot["off_grid"] == []
    assert differing(held[0], model) == []
    assert differing(held[-1], run.folder / "model") == []
    assert set(differing(held[-1], model)) == set(FORMATS), "training changed nothing in vLLM"


def test_books_and_config_tell_which_layers_vllm_executed_by_itself(run: Run) -> None:
    config = json.loads((run.files / "config.json").read_text())
    own = {"pair": "MXFP8/FP16", "kernel": "MarlinMxfp8LinearKernel"}
    assert config["rollout"]["own"] == dict.fromkeys(NAMES, own)
    assert "vLLM does not execute" not in run.output and "executes too" not in run.output
    rolled = config["formats"]["policy"]["rollout"]
    assert set(rolled.values()) == {"MXFP8/FP16"}
    with (run.files / "energy.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == "rollout" and int(row["macs"] or 0)]
    assert {row["format"] for row in rows} == {"MXFP8/FP16+engine", "MXFP8/FP16+weights-only"}

"""Each run is made once a session; what it left is read by several tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.openrlhf.recipes import OWN_FORMATS
from tests.openrlhf.tiny import tiny_model
from tests.vllm.runs import Run, free_port, server, train

MIXED = """
version: 1
name: mixed
defaults: {rollout: MXFP4, reward: FP16, gradient: FP16}
lm_head: {rollout: MXFP8}
rules:
  - {layers: "*.0.self_attn.k_proj", format: MXFP8, phases: [rollout]}
"""

OWN = """
version: 1
name: own
scale_rule: floor
defaults: {rollout: MXFP8, reward: FP16, gradient: FP16}
lm_head: {rollout: MXFP8}
rules:
  - {layers: "*.1.mlp.up_proj", format: FP16, phases: [rollout]}
  - {layers: "*.1.mlp.gate_proj", format: FP16, phases: [rollout]}
"""
"""Of vLLM's own formats MXFP8 fits all modules but one; and down_proj, whose 144 inputs are no whole blocks of 32."""

POLICIES = {"mixed": MIXED, "own": OWN}

SPECS: dict[str, dict[str, Any]] = {
    "grpo": {"kind": "grpo", "policy": "C", "evaluate_first": True, "evaluate_last": True},
    "grpo_mixed": {"kind": "grpo", "policy": "mixed"},
    "grpo_plain": {"kind": "grpo"},
    "grpo_a": {"kind": "grpo", "policy": "A"},
    "grpo_lora": {"kind": "grpo", "policy": "C", "lora": True},
    "rloo": {"kind": "rloo", "policy": "C"},
    "online_dpo": {"kind": "online_dpo", "policy": "C"},
    "grpo_own": {"kind": "grpo", "policy": "own", "evaluate_first": True, "evaluate_last": True, "env": OWN_FORMATS},
    "grpo_own_off": {"kind": "grpo", "policy": "own", "evaluate_first": True, "evaluate_last": True, "env": OWN_FORMATS}
    | {"mx": {"vllm_formats": "rounded"}},
    "online_dpo_own": {"kind": "online_dpo", "policy": "own", "env": OWN_FORMATS, "broken_sync": True},
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="session")
def model(folder: Path) -> Path:
    return tiny_model(folder / "tiny")


@pytest.fixture(scope="session")
def trained(folder: Path, model: Path) -> Callable[[str], Run]:
    """``trained(name)``: a finished run of SPECS, or ``served``: GRPO beside ``trl vllm-serve``.

    ``served_own``: beside one that quantises by itself; ``served_rloo``, ``served_online_dpo``: another trainer.
    """

    @cache
    def finished(name: str) -> Run:
        if name == "served":
            return served(folder, model)
        if name == "served_own":
            whole_blocks = tiny_model(folder / "whole_blocks", intermediate_size=160)
            return served(folder, whole_blocks, "--quantization", "mxfp8", policy="C8", **OWN_FORMATS)
        if name.startswith("served_"):
            return served(folder, model, kind=name.removeprefix("served_"))
        spec = dict(SPECS[name])
        policy = spec.get("policy")
        if policy in POLICIES:
            spec["policy"] = str(folder / f"{policy}.yaml")
            (folder / f"{policy}.yaml").write_text(POLICIES[policy])
        return train(folder / name, model, spec, **spec.pop("env", {}))

    return finished


def served(folder: Path, model: Path, *flags: str, kind: str = "grpo", policy: str = "C", **more: str) -> Run:
    name = "_".join(("served", kind, *flags)).replace("-", "")
    held = folder / f"held_by_{name}"
    with server(held, model, *flags, **more) as address:
        config: dict[str, Any] = {
            "vllm_mode": "server",
            "vllm_server_base_url": address,
            "vllm_group_port": free_port(),
        }
        if kind != "online_dpo":
            config["vllm_max_model_length"] = None
        spec = {"kind": kind, "policy": policy, "config": config}
        run = train(folder / name, model, spec)
    run.server_weights = held
    return run

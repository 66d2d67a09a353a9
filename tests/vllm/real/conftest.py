"""Each run is made once a session; what it left is read by several tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

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

SPECS: dict[str, dict[str, Any]] = {
    "grpo": {"kind": "grpo", "policy": "C", "evaluate_first": True, "evaluate_last": True},
    "grpo_mixed": {"kind": "grpo", "policy": "mixed"},
    "grpo_plain": {"kind": "grpo"},
    "grpo_a": {"kind": "grpo", "policy": "A"},
    "grpo_lora": {"kind": "grpo", "policy": "C", "lora": True},
    "rloo": {"kind": "rloo", "policy": "C"},
    "online_dpo": {"kind": "online_dpo", "policy": "C"},
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="session")
def model(folder: Path) -> Path:
    return tiny_model(folder / "tiny")


@pytest.fixture(scope="session")
def trained(folder: Path, model: Path) -> Callable[[str], Run]:
    """``trained(name)``: a finished run of SPECS, or ``served``: GRPO beside ``trl vllm-serve``."""

    @cache
    def finished(name: str) -> Run:
        if name == "served":
            return served(folder, model)
        spec = dict(SPECS[name])
        if spec.get("policy") == "mixed":
            spec["policy"] = str(folder / "mixed.yaml")
            (folder / "mixed.yaml").write_text(MIXED)
        return train(folder / name, model, spec)

    return finished


def served(folder: Path, model: Path) -> Run:
    held = folder / "held_by_the_server"
    with server(held, model) as address:
        config = {"vllm_mode": "server", "vllm_server_base_url": address, "vllm_group_port": free_port()}
        spec = {"kind": "grpo", "policy": "C", "config": {**config, "vllm_max_model_length": None}}
        run = train(folder / "served", model, spec)
    run.server_weights = held
    return run

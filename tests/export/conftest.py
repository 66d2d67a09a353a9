"""What the tests of export share: the embedded model, its exports, and a model generated from in its formats."""

from __future__ import annotations

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder

pytest.importorskip("transformers")


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedFolder:
    """The embedded policy (warmed up by a few steps only), reward model and prompts, made once a session."""
    from mx_trl.embedded import build

    return build(tmp_path_factory.mktemp("embedded") / "made", warm_up_steps=8)


@pytest.fixture
def prompt_ids() -> torch.Tensor:
    """Four rows of five token ids of the embedded model's vocabulary."""
    return torch.randint(5, 800, (4, 5), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def in_formats() -> Callable[..., Any]:
    """``in_formats(model, policy, function, phase="rollout", role=...)``: what it gives while the engine holds it."""

    def run(model: Any, policy: str, function: Callable[[], Any], phase: str = "rollout", role: str = "policy") -> Any:
        from mx_plugin.execution.engine import Engine
        from mx_plugin.plugins import get_backend
        from mx_plugin.precision import PolicyProvider, load_policy

        backend = get_backend("cpu")
        with Engine(PolicyProvider(load_policy(policy)), backend) as engine:
            engine.adopt({role: model})
            with engine.phase(phase), torch.no_grad():
                found = function()
        backend.close()
        return found

    return run


@pytest.fixture(scope="session")
def full_model() -> Callable[[Path | str], Any]:
    """``full_model(folder)``: loaded by transformers, in evaluation mode."""

    def load(folder: Path | str) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()

    return load

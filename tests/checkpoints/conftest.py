"""Real stages on the embedded model, small enough that a step takes a tenth of a second."""

from __future__ import annotations

import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder
    from mx_trl.stages.built import BuiltStage

TRAINING: dict[str, Any] = {
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "temperature": 1.0,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "seed": 5,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "disable_tqdm": True,
    "gradient_checkpointing": False,
}
PPO = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "num_ppo_epochs": 2,
    "num_mini_batches": 2,
    "max_steps": 5,
    "response_length": 6,
    "num_sample_generations": 0,
}
LEARNING = {
    **{name: value for name, value in TRAINING.items() if name != "temperature"},
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "max_steps": 5,
}
GRPO = {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 6, "max_steps": 5}

MX_GRADIENT = """
version: 1
name: everything
activations: MXFP8
scale_rule: rceil
defaults: {rollout: MXFP4, reward: MXFP4, gradient: MXFP4}
"""
"""MXFP4 gradients round stochastically by default."""


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedFolder:
    from mx_trl.embedded import build

    return build(tmp_path_factory.mktemp("embedded") / "made")


@pytest.fixture(scope="session", autouse=True)
def _imports_are_not_collected() -> Iterator[None]:
    """PPOTrainer collects garbage several times a step: without all that imports left behind, that is instant."""
    import gc
    from contextlib import suppress

    with suppress(ImportError):
        import_module("trl.experimental.ppo")

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A model this small is fastest on one thread, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def mx_gradient(tmp_path: Path) -> str:
    """A policy file with MX in all phases, gradients with stochastic rounding."""
    path = tmp_path / "everything.yaml"
    path.write_text(MX_GRADIENT)
    return str(path)


@pytest.fixture
def make_ppo(embedded: EmbeddedFolder) -> Callable[..., BuiltStage]:
    """``make_ppo(folder, policy, script={}, model={}, **training)``: five PPO steps of 4 episodes on 13 prompts."""

    def make(
        folder: Path,
        policy: str | None = None,
        *,
        script: Any = None,
        model: Any = None,
        mx: Any = None,
        **training: Any,
    ) -> BuiltStage:
        from trl import ModelConfig

        from mx_plugin.config import MXConfig
        from mx_trl.stages.arguments import PPOScriptArguments
        from mx_trl.stages.ppo import build_ppo, load_ppo

        chosen = {"dataset_name": str(embedded.prompts), "num_prompts": 13, "reward": "sentiment", **(script or {})}
        return build_ppo(
            PPOScriptArguments(no_mx=policy is None, **chosen),
            load_ppo()[0](**{**TRAINING, **PPO, "output_dir": str(folder), **training}),
            ModelConfig(model_name_or_path=str(embedded.policy), **(model or {})),
            MXConfig(policy=policy or "A", mismatch_every=2, kl_every=2, **(mx or {})),
        )

    return make


@pytest.fixture
def make_grpo(embedded: EmbeddedFolder) -> Callable[..., BuiltStage]:
    """``make_grpo(folder, policy, script={}, **training)``: five GRPO steps of 2 prompts and 2 samples each."""

    def make(
        folder: Path, policy: str | None = None, *, script: Any = None, mx: Any = None, **training: Any
    ) -> BuiltStage:
        from trl import GRPOConfig, ModelConfig

        from mx_plugin.config import MXConfig
        from mx_trl.stages.arguments import GRPOScriptArguments
        from mx_trl.stages.grpo import build_grpo

        chosen = {"dataset_name": str(embedded.prompts), "num_prompts": 7, "reward": "sentiment", **(script or {})}
        return build_grpo(
            GRPOScriptArguments(no_mx=policy is None, **chosen),
            GRPOConfig(**{**TRAINING, **GRPO, "output_dir": str(folder), **training}),
            ModelConfig(model_name_or_path=str(embedded.policy)),
            MXConfig(policy=policy or "A", mismatch_every=2, kl_every=2, **(mx or {})),
        )

    return make


@pytest.fixture
def make_learning(embedded: EmbeddedFolder) -> Callable[..., BuiltStage]:
    """``make_learning("sft", folder, policy, script={}, **training)``: five steps on 10 examples; also reward, dpo."""

    def make(
        kind: str, folder: Path, policy: str | None = None, *, script: Any = None, mx: Any = None, **training: Any
    ) -> BuiltStage:
        from trl import ModelConfig

        from mx_plugin.config import MXConfig
        from mx_trl.stages import arguments
        from mx_trl.stages.trainers import load_trainer

        name = {"sft": "SFT", "reward": "Reward", "dpo": "DPO"}[kind]
        data = embedded.dialogues if kind == "sft" else embedded.pairs
        chosen = {"dataset_name": str(data), "num_examples": 10, **(script or {})}
        return getattr(import_module(f"mx_trl.stages.{kind}"), f"build_{kind}")(  # type: ignore[no-any-return]
            getattr(arguments, f"{name}ScriptArguments")(no_mx=policy is None, **chosen),
            load_trainer(name)[0](**{**LEARNING, "output_dir": str(folder), **training}),
            ModelConfig(model_name_or_path=str(embedded.policy)),
            MXConfig(policy=policy or "A", **(mx or {})),
        )

    return make


@pytest.fixture
def make(request: pytest.FixtureRequest, make_learning: Callable[..., BuiltStage]) -> Callable[..., BuiltStage]:
    """``make(kind, folder, policy, ...)``: any of the five stages."""

    def build(kind: str, folder: Path, policy: str | None = None, **options: Any) -> BuiltStage:
        if kind in ("ppo", "grpo"):
            return request.getfixturevalue(f"make_{kind}")(folder, policy, **options)  # type: ignore[no-any-return]
        return make_learning(kind, folder, policy, **options)

    return build

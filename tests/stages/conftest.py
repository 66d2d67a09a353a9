"""Builders of the learning stages around the embedded model: two steps take a second or two."""

from __future__ import annotations

import json
import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder

SMALL: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "max_steps": 2,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "gradient_checkpointing": False,
    "seed": 3,
    "bf16": False,
    "use_cpu": True,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small are fastest on one thread, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedFolder:
    """The embedded models and data, made once a session, as every stage makes them."""
    from mx_trl.embedded import build

    return build(tmp_path_factory.mktemp("embedded") / "made")


@pytest.fixture
def stage(tmp_path: Path, embedded: EmbeddedFolder) -> Callable[..., Any]:
    """``stage("sft", mx=MXConfig() or None, model=PATH, script={...}, **training)``: a stage, built on 12 examples."""

    def build(
        kind: str, mx: Any = None, model: object = None, script: dict[str, Any] | None = None, **training: Any
    ) -> Any:
        from trl import ModelConfig

        from mx_trl.stages import arguments as classes
        from mx_trl.stages.dpo import build_dpo
        from mx_trl.stages.reward import build_reward
        from mx_trl.stages.sft import build_sft
        from mx_trl.stages.trainers import load_trainer

        name, builder, data = {
            "sft": ("SFT", build_sft, embedded.dialogues),
            "reward": ("Reward", build_reward, embedded.pairs),
            "dpo": ("DPO", build_dpo, embedded.pairs),
        }[kind]
        chosen = {"dataset_name": str(data), "num_examples": 12, "no_mx": mx is None, **(script or {})}
        settings = {**SMALL, "output_dir": str(tmp_path / kind), **training}
        return builder(
            getattr(classes, f"{name}ScriptArguments")(**chosen),
            load_trainer(name)[0](**settings),
            ModelConfig(model_name_or_path=str(model or embedded.policy)),
            mx,
        )

    return build


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., str]:
    """``jsonl(row, row, "text of a bad line", name="rows.jsonl")``: a file with these lines."""

    def write(*rows: Any, name: str = "rows.jsonl") -> str:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(path)

    return write

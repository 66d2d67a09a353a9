"""Builders of real trainers around the embedded model: two or three steps take a second or two."""

from __future__ import annotations

import csv
import gc
import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mx_plugin.execution.phases import TRACKER

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder

SEED = 7


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedFolder:
    """The embedded policy, reward model and prompts, made once a session; load them anew for each trainer."""
    from mx_trl.embedded import build

    return build(tmp_path_factory.mktemp("embedded") / "made")


@pytest.fixture(autouse=True)
def _the_process_is_left_as_it_was() -> Iterator[None]:
    """No test may leave a phase, a listener or a patched ``generate`` behind."""
    from transformers import GenerationMixin

    before = GenerationMixin.generate
    yield
    assert TRACKER.phase == "other"
    assert not TRACKER._listeners
    assert GenerationMixin.generate is before


@pytest.fixture(scope="session")
def ppo_imported() -> Iterator[None]:
    """PPOTrainer collects garbage several times a step: without all that imports left behind, that is instant."""
    import trl.experimental.ppo  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def make_ppo(embedded: EmbeddedFolder, ppo_imported: None) -> Callable[..., Any]:
    """``make_ppo(tmp_path, callbacks, *, dtype, peft_config, policy, value, reward, ..., **config)``: a PPOTrainer.

    Two steps of 8 episodes on the embedded model by default; ``config`` overrides fields of PPOConfig,
    the keyword arguments before it replace models or prompts. The same arguments give the same run, bit for bit.
    """

    def make(
        tmp_path: Path,
        callbacks: Sequence[Any] = (),
        *,
        dtype: torch.dtype = torch.float32,
        peft_config: Any = None,
        policy: Any = None,
        value: Any = None,
        reward: Any = None,
        tokenizer: Any = None,
        tokens: list[list[int]] | None = None,
        trainer_class: Any = None,
        steps: int = 2,
        **config: Any,
    ) -> Any:
        from datasets import Dataset
        from transformers import set_seed
        from trl.experimental.ppo import PPOConfig, PPOTrainer

        from mx_trl.models import load_policy, load_scorer, load_tokenizer

        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / "trainer"),
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "per_device_eval_batch_size": 4,
            "num_ppo_epochs": 2,
            "total_episodes": 8 * steps,
            "response_length": 8,
            "learning_rate": 1e-3,
            "temperature": 1.0,
            "num_sample_generations": 0,
            "seed": SEED,
            "use_cpu": True,
            "bf16": False,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }
        set_seed(SEED)
        tokenizer = tokenizer or load_tokenizer(str(embedded.policy))
        rows = Dataset.from_dict({"input_ids": tokens or _prompts(embedded, tokenizer)})
        return (trainer_class or PPOTrainer)(
            args=PPOConfig(**(settings | config)),
            processing_class=tokenizer,
            model=policy if policy is not None else load_policy(str(embedded.policy), dtype=dtype),
            ref_model=None,
            reward_model=reward if reward is not None else load_scorer(str(embedded.reward), "reward", dtype=dtype),
            value_model=value if value is not None else load_scorer(str(embedded.policy), "value", dtype=dtype),
            train_dataset=rows,
            eval_dataset=rows.select(range(8)),
            peft_config=peft_config,
            callbacks=list(callbacks),
        )

    return make


def _prompts(embedded: EmbeddedFolder, tokenizer: Any) -> list[list[int]]:
    from mx_trl.prompts import fitting_prompts, read_prompts

    prompts = list(islice(read_prompts(str(embedded.prompts), "prompt"), 32))
    return fitting_prompts(prompts, tokenizer, 48)[1]


@pytest.fixture
def rows_of() -> Callable[..., list[dict[str, str]]]:
    """``rows_of(run_dir, "energy.csv", phase="rollout")``: records of a run's CSV file, chosen by column."""

    def read(run_dir: Path, file: str, **chosen: str) -> list[dict[str, str]]:
        with (Path(run_dir) / file).open(newline="", encoding="utf-8") as lines:
            records = list(csv.DictReader(lines))
        return [record for record in records if all(record[column] == value for column, value in chosen.items())]

    return read


@pytest.fixture
def numbers_of() -> Callable[[Any], list[dict[str, Any]]]:
    """``numbers_of(trainer)``: its log, step by step, without our keys and without what depends on the clock."""

    def numbers(trainer: Any) -> list[dict[str, Any]]:
        return [
            {key: value for key, value in entry.items() if key != "eps" and not key.startswith("mx/")}
            for entry in trainer.state.log_history
        ]

    return numbers


@pytest.fixture
def weights_of() -> Callable[[Any], dict[str, torch.Tensor]]:
    """``weights_of(trainer)``: a copy of every tensor of policy and value model."""

    def weights(trainer: Any) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}

    return weights

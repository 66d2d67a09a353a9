"""One run of an experiment, in real training: repeatable, the same prompts for every policy, from the planned start."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mx_plugin.experiments.folder import why_not_done
from mx_plugin.precision import load_policy
from mx_trl.embedded import EmbeddedFolder
from mx_trl.errors import StageError

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def start(embedded: EmbeddedFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """(recipe, what examining it said): 24 prompts in batches of 8, so that the second epoch is reached."""
    from mx_trl.experiments.examine import examine
    from mx_trl.experiments.recipe import Recipe, installed_stage

    stage = installed_stage(None)
    lengths = ["--response_length", "8", "--num_ppo_epochs", "1", "--num_mini_batches", "1"]
    if stage == "grpo":
        lengths = ["--max_completion_length", "8", "--num_generations", "2", "--logging_steps", "1"]
    data = [
        "--model_name_or_path",
        str(embedded.policy),
        "--dataset_name",
        str(embedded.prompts),
        "--num_prompts",
        "24",
    ]
    words = [*data, "--reward", "sentiment", "--per_device_train_batch_size", "8", "--learning_rate", "1e-3",
             "--use_cpu", "True", "--bf16", "False", "--gradient_checkpointing", "False", *lengths]  # fmt: skip
    recipe = Recipe(stage, tuple(words), "unused", 4)
    return recipe, examine(recipe, tmp_path_factory.mktemp("examined"))


@pytest.fixture(scope="module")
def run(start: tuple[Any, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """``run(policy, seed=1, sampling_seed=None, **options)``: the folder of a run; the same arguments run once."""
    from mx_trl.experiments.run import run as train

    recipe, examined = start

    def made(policy: str, seed: int = 1, sampling_seed: int | None = None, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp(policy)
        file = folder / "policy.yaml"
        load_policy(policy).to_yaml(file)
        job = {"recipe": recipe.to_dict(), "policy": str(file), "seed": seed, "sampling_seed": sampling_seed,
               "options": options, "start": examined["start"]}  # fmt: skip
        train(job, folder)
        return folder

    return made


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as lines:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(lines)]


def order(folder: Path) -> list[str]:
    return (folder / "data_order.csv").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def c(run: Run) -> Path:
    return run("C")


def test_the_same_seed_twice_gives_identical_metrics_but_for_seconds(run: Run, c: Path) -> None:
    again = run("C")
    assert metrics(again) == metrics(c) != []
    weights = "model/model.safetensors"
    assert (again / weights).read_bytes() == (c / weights).read_bytes()
    assert order(again) == order(c)


def test_every_policy_of_a_seed_sees_the_same_prompts_in_the_second_epoch_too(run: Run, c: Path) -> None:
    other = run("A", sampling_seed=5)  # as if responses had ended elsewhere: other draws from the global generator
    assert metrics(other) != metrics(c), "the policies train alike: nothing is shown"
    assert order(other) == order(c)
    assert len(order(c)) > 1 + 3
    assert order(run("A", seed=2)) != order(other)


def test_aa_differs_by_its_draws_alone(run: Run, c: Path) -> None:
    other = run("C", sampling_seed=1_000_004)
    assert order(other) == order(c)
    assert metrics(other) != metrics(c)


@pytest.mark.slow
def test_noise_trains_and_is_repeatable(run: Run, c: Path) -> None:
    noise = {"backend": "noise", "backend_options": ["noise.inner=cpu", "noise.seed=1"]}
    first, again = run("C", **noise), run("C", **noise)
    assert metrics(first) == metrics(again) != metrics(c)


def test_a_run_leaves_whole_files_and_a_model_that_loads(c: Path) -> None:
    from transformers import AutoModelForCausalLM

    assert why_not_done(c) == ""
    assert {"config.json", "energy.csv", "metrics.csv", "metrics.jsonl", "training_log.txt"} <= {
        f.name for f in c.iterdir()
    }
    model = AutoModelForCausalLM.from_pretrained(c / "model")
    record = json.loads((c / "done.json").read_text(encoding="utf-8"))
    from mx_trl.experiments.weights import weights_sha256

    assert weights_sha256(model) == record["final_sha256"] != record["start_sha256"]


def test_another_start_than_the_planned_one_is_refused(start: tuple[Any, dict[str, Any]], tmp_path: Path) -> None:
    from mx_trl.experiments.run import run as train

    load_policy("A").to_yaml(tmp_path / "A.yaml")
    job = {"recipe": start[0].to_dict(), "policy": str(tmp_path / "A.yaml"), "seed": 1, "options": {},
           "start": {"sha256": "0" * 64}}  # fmt: skip
    with pytest.raises(StageError, match="not the model that the experiment was planned with"):
        train(job, tmp_path)


def test_the_start_names_every_layer_of_every_role(start: tuple[Any, dict[str, Any]]) -> None:
    examined = start[1]
    policy = [layer for layer in examined["layers"] if layer["role"] == "policy"]
    assert len(policy) == 2 * 7 + 1 and sum(layer["is_lm_head"] for layer in policy) == 1
    assert examined["num_steps"] == 4
    assert examined["options"]["learning_rate"] == 1e-3


def test_an_empty_dataset_is_refused_before_any_run(start: tuple[Any, dict[str, Any]], tmp_path: Path) -> None:
    from dataclasses import replace

    from mx_trl.experiments.examine import examine

    (tmp_path / "empty.jsonl").touch()
    words = (*start[0].words, "--dataset_name", str(tmp_path / "empty.jsonl"))
    with pytest.raises(StageError, match="empty"):
        examine(replace(start[0], words=words), tmp_path)

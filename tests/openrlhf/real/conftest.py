"""Each recipe runs once a session; what it wrote is read by several tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.openrlhf.recipes import OWN_FORMATS, PPO, Run, run_recipe
from tests.openrlhf.tiny import tiny_model, write_data


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("openrlhf")


@pytest.fixture(scope="session")
def model(folder: Path) -> Path:
    return tiny_model(folder / "tiny")


@pytest.fixture(scope="session")
def data(folder: Path) -> dict[str, Path]:
    return write_data(folder)


@pytest.fixture(scope="session", autouse=True)
def _no_ray_is_left() -> Iterator[None]:
    """The driver ends its own Ray; a recipe that was killed leaves it, and the next would join it."""
    yield
    ray = Path(sys.executable).with_name("ray")
    subprocess.run([str(ray), "stop", "--force"], capture_output=True, check=False)


@pytest.fixture(scope="session")
def ppo(folder: Path, model: Path, data: dict[str, Path]) -> Callable[..., Run]:
    """``ppo(policy, estimator)``: a finished train_ppo_ray, run at the first call; policy None is without MX.

    With a third argument, True, in a vLLM that has a kernel of its own for MXFP8.
    """

    @cache
    def finished(policy: str | None, estimator: str, own_formats: bool = False) -> Run:
        flags = [*PPO.split(), "--actor.model_name_or_path", str(model), "--data.prompt_dataset", str(data["prompts"])]
        flags += ["--algo.advantage.estimator", estimator]
        if estimator == "gae":
            flags += ["--reward.model_name_or_path", str(model), "--critic.model_name_or_path", str(model)]
            # One token has all the probability, so that what is sampled is the same in every run.
            flags += ["--rollout.top_p", "0.000001"]
        else:
            flags += ["--reward.remote_url", str(data["reward"])]
        here = folder / "_".join(["ppo", Path(str(policy)).stem, estimator, *["own"] * own_formats])
        return run_recipe("train_ppo_ray", here, flags, policy, **(OWN_FORMATS if own_formats else {}))

    return finished


@pytest.fixture(scope="session")
def trained(folder: Path, model: Path, data: dict[str, Path]) -> Callable[..., Run]:
    """``trained(recipe, policy)``: a finished train_sft, train_rm or train_dpo."""

    @cache
    def finished(recipe: str, policy: str | None) -> Run:
        table = data["sft" if recipe == "train_sft" else "pairs"]
        here = folder / f"{recipe}_{policy}"
        flags = ["--model.model_name_or_path", str(model), "--data.dataset", str(table), "--adam.lr", "1e-3"]
        # The template around prompts of SFT takes 26 tokens; without held-out pairs the reward model has none at all.
        flags += ["--data.max_len", "64", "--eval.dataset", str(table), "--eval.split", "train"]
        flags += ["--logger.tensorboard_dir", str(here / "tensorboard")]
        if recipe == "train_sft":
            flags += ["--data.output_key", "output"]
        if recipe == "train_dpo":
            flags += ["--ref.model_name_or_path", str(model)]
        return run_recipe(recipe, here, flags, policy)

    return finished

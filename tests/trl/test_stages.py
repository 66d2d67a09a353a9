"""The stages behind the examples: what is checked before training, and short real runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl")

from trl import GRPOConfig, ModelConfig, TrlParser

from mx_plugin.config import MXConfig
from mx_trl.embedded import EmbeddedFolder
from mx_trl.errors import StageError
from mx_trl.stages.arguments import GRPOScriptArguments, PPOScriptArguments
from mx_trl.stages.command import run_example
from mx_trl.stages.compare import run_policies
from mx_trl.stages.grpo import run_grpo
from mx_trl.stages.ppo import load_ppo, run_ppo
from mx_trl.stages.summary import StageSummary

SMALL = {
    "per_device_train_batch_size": 4,
    "max_steps": 2,
    "learning_rate": 1e-3,
    "seed": 3,
    "bf16": False,
    "use_cpu": True,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


@pytest.fixture
def ppo(tmp_path: Path, embedded: EmbeddedFolder) -> Callable[..., StageSummary]:
    """``ppo(script={...}, model=..., **training)``: two PPO steps in plain TRL, by default on the embedded model."""

    def run(script: dict[str, Any] | None = None, model: object = None, **training: Any) -> StageSummary:
        config_class, _ = load_ppo()
        chosen = {"no_mx": True, "dataset_name": str(embedded.prompts), "reward": "sentiment", **(script or {})}
        arguments = {**SMALL, "output_dir": str(tmp_path), "response_length": 8, "num_ppo_epochs": 1, **training}
        return run_ppo(
            PPOScriptArguments(**chosen),
            config_class(**arguments),
            ModelConfig(model_name_or_path=str(model or embedded.policy)),
        )

    return run


@pytest.fixture
def grpo(tmp_path: Path, embedded: EmbeddedFolder) -> Callable[..., StageSummary]:
    """``grpo(script={...}, model=..., **training)``: two GRPO steps in plain TRL."""

    def run(script: dict[str, Any] | None = None, model: object = None, **training: Any) -> StageSummary:
        chosen = {"no_mx": True, "dataset_name": str(embedded.prompts), "reward": "sentiment", **(script or {})}
        arguments = {**SMALL, "output_dir": str(tmp_path), "max_completion_length": 8, "num_generations": 2,
                     "logging_steps": 1, "gradient_checkpointing": False, **training}  # fmt: skip
        return run_grpo(
            GRPOScriptArguments(**chosen),
            GRPOConfig(**arguments),
            ModelConfig(model_name_or_path=str(model or embedded.policy)),
        )

    return run


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A model this small is fastest on one thread, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---------------------------------------------------------------------------- PPO

on_the_ppo_line = pytest.mark.trl("<1.13")


@on_the_ppo_line
def test_ppo_runs_on_the_embedded_policy_and_reward_model(
    ppo: Callable[..., StageSummary], embedded: EmbeddedFolder
) -> None:
    script = {"reward": "model", "value_model_path": str(embedded.policy)}
    summary = ppo(script, reward_model_path=str(embedded.reward))
    assert summary.steps == 2 == len(summary.rewards)
    assert summary.policy == "none" and summary.table == ""
    assert f"reward {summary.rewards[0]:.3f} -> {summary.rewards[1]:.3f}" in str(summary)


@on_the_ppo_line
def test_the_same_seed_gives_the_same_run(ppo: Callable[..., StageSummary]) -> None:
    def log(summary: StageSummary) -> list[dict[str, Any]]:
        # As text, because a variance of one ratio is NaN, which equals nothing.
        return [{k: repr(v) for k, v in entry.items() if k != "eps"} for entry in summary.log_history]

    first, again, other = ppo(), ppo(), ppo(seed=4)
    assert log(first) == log(again) != log(other)


@on_the_ppo_line
def test_total_episodes_wins_over_max_steps(ppo: Callable[..., StageSummary]) -> None:
    assert ppo(total_episodes=4).steps == 1


@on_the_ppo_line
@pytest.mark.real_data
def test_ppo_trains_stories260k_which_has_two_end_tokens_and_none_to_pad_with(
    ppo: Callable[..., StageSummary], stories260k: Path, tinystories: Path
) -> None:
    script = {"dataset_name": str(tinystories), "prompt_from": "story", "num_prompts": 12, "reward": "plain_words"}
    summary = ppo(script, stories260k)
    assert summary.steps == 2
    assert all(0.0 < reward <= 1.0 for reward in summary.rewards)


@on_the_ppo_line
def test_prompts_kept_out_of_training_are_sampled_from(
    ppo: Callable[..., StageSummary], capsys: pytest.CaptureFixture[str]
) -> None:
    ppo({"num_prompts": 12, "num_eval_prompts": 4}, num_sample_generations=1)
    assert "model response" in capsys.readouterr().out


@on_the_ppo_line
@pytest.mark.parametrize(
    ("script", "training", "message"),
    [
        ({"prompt_from": "question"}, {}, r"no column 'question'; columns: prompt"),
        ({"num_prompts": 3}, {}, r"3 prompts to train with .* fewer than one batch of 4"),
        ({"num_prompts": 6, "num_eval_prompts": 4}, {}, r"2 prompts to train with \(6 without the 4"),
        ({}, {"response_length": 64}, r"prompts of at least 1 tokens and responses of 64 exceed the context"),
        ({"max_prompt_length": 60}, {}, r"prompts of 60 tokens and responses of 8 exceed the context of .* 64 tokens"),
        ({"max_prompt_length": 5}, {}, r"all 200 prompts are longer than 5 tokens"),
        ({"dataset_name": None}, {}, r"no prompts for .*: give --dataset_name"),
        ({"reward": "model"}, {}, r"--reward model needs --reward_model_path"),
        ({"reward": None}, {}, r"no reward for .*: give --reward_model_path, or a rule"),
        ({"reward": "sentimant"}, {}, r"did you mean 'sentiment'"),
        ({"end_token": "<end>"}, {}, r"end token '<end>' is not in the tokenizer's vocabulary"),
    ],
)
def test_what_does_not_fit_is_said_before_training(
    ppo: Callable[..., StageSummary], script: dict[str, Any], training: dict[str, Any], message: str
) -> None:
    with pytest.raises(StageError, match=message):
        ppo(script, **training)


@on_the_ppo_line
@pytest.mark.real_data
def test_a_reward_model_that_numbers_tokens_otherwise_is_refused(
    ppo: Callable[..., StageSummary], stories260k: Path
) -> None:
    with pytest.raises(StageError, match=r"different tokenizers: \d+ of 512 tokens differ.*or a rule by --reward"):
        ppo({"reward": "model"}, reward_model_path=str(stories260k))


@on_the_ppo_line
@pytest.mark.real_data
def test_a_penalty_for_a_missing_end_needs_one_end_token(
    ppo: Callable[..., StageSummary], stories260k: Path, tinystories: Path
) -> None:
    script = {"dataset_name": str(tinystories), "prompt_from": "story", "num_prompts": 12}
    with pytest.raises(StageError, match=r"missing_eos_penalty knows one end token.*choose one by --end_token"):
        ppo(script, stories260k, missing_eos_penalty=1.0)
    assert ppo({**script, "end_token": "<s>"}, stories260k, missing_eos_penalty=1.0).rewards[0] < 0


@on_the_ppo_line
def test_bitsandbytes_quantisation_is_refused(tmp_path: Path, embedded: EmbeddedFolder) -> None:
    script = PPOScriptArguments(no_mx=True, dataset_name=str(embedded.prompts), reward="sentiment")
    model = ModelConfig(model_name_or_path=str(embedded.policy), load_in_8bit=True)
    with pytest.raises(StageError, match="load_in_4bit and load_in_8bit replace the linear layers"):
        run_ppo(script, load_ppo()[0](**SMALL, output_dir=str(tmp_path)), model)


@pytest.mark.trl(">=1.13")
def test_a_trl_without_ppo_is_named_with_the_remedy() -> None:
    with pytest.raises(StageError, match=r"trl 1\.\d+\.\d+ has no PPOTrainer.*pip install 'mx-plugin\[ppo\]'"):
        load_ppo()
    with pytest.raises(SystemExit):
        run_example(run_ppo, PPOScriptArguments, lambda: load_ppo()[0], embedded_config=Path("none"),
                    arguments=[])  # fmt: skip


# ---------------------------------------------------------------------------- GRPO


def test_grpo_runs_on_a_rule(grpo: Callable[..., StageSummary]) -> None:
    summary = grpo()
    assert summary.steps == 2 == len(summary.rewards)


def test_grpo_runs_on_a_reward_model(grpo: Callable[..., StageSummary], embedded: EmbeddedFolder) -> None:
    summary = grpo({"reward": "model", "reward_model_path": str(embedded.reward)})
    assert summary.steps == 2 == len(summary.rewards)


@pytest.mark.real_data
def test_grpo_warns_that_it_uses_one_of_several_end_tokens(
    grpo: Callable[..., StageSummary], stories260k: Path, tinystories: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = {"dataset_name": str(tinystories), "prompt_from": "story", "num_prompts": 12, "reward": "plain_words"}
    grpo(script, stories260k, max_steps=1)
    assert "names 2 end tokens (<s>, </s>), GRPOTrainer uses one, '</s>'" in caplog.text
    caplog.clear()
    assert grpo({**script, "end_token": "<s>"}, stories260k, max_steps=1).steps == 1
    assert "end tokens" not in caplog.text


def test_grpo_cannot_go_on_after_the_end_token(grpo: Callable[..., StageSummary]) -> None:
    with pytest.raises(StageError, match="--end_token none is not possible"):
        grpo({"end_token": "none"})


# ---------------------------------------------------------------------------- the command line


def configs(repository: Path, stage: str) -> list[Path]:
    return sorted((repository / "examples" / "configs").glob(f"{stage}_*.yaml"))


@on_the_ppo_line
def test_every_ppo_config_of_the_examples_is_understood(repository: Path) -> None:
    parser = TrlParser((PPOScriptArguments, load_ppo()[0], ModelConfig, MXConfig))
    files = configs(repository, "ppo")
    assert "ppo_embedded.yaml" in [file.name for file in files]
    for file in files:
        _, training, _, _ = parser.parse_args_and_config(["--config", str(file), "--policy", "C8"])
        assert training.max_steps > 0 and training.bf16 is False


def test_every_grpo_config_of_the_examples_is_understood(repository: Path) -> None:
    parser = TrlParser((GRPOScriptArguments, GRPOConfig, ModelConfig, MXConfig))
    for file in configs(repository, "grpo"):
        assert parser.parse_args_and_config(["--config", str(file)])[1].num_generations == 8


def test_no_argument_of_ours_hides_one_of_grpo() -> None:
    ours = {f.name for f in [*fields(GRPOScriptArguments), *fields(MXConfig)]}
    theirs = {f.name for f in [*fields(GRPOConfig), *fields(ModelConfig)]}
    assert not ours & theirs


class Recorder:
    """A stage that trains nothing and keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []

    def __call__(
        self, script: Any, training: Any, model: ModelConfig, config: MXConfig, *, run_dir: str
    ) -> StageSummary:
        self.calls.append((config.policy, training.output_dir, run_dir))
        return StageSummary("GRPO", config.policy, 1, 0.5, [0.25, 0.75], training.output_dir)


def test_what_trl_refuses_is_one_message_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_example(Recorder(), GRPOScriptArguments, lambda: GRPOConfig, embedded_config=Path("none"),
                    arguments=["--config", str(tmp_path / "missing.yaml")])  # fmt: skip
    assert "error: these arguments are refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "policies"),
    [([], ["A", "C"]), (["--policy", "C8"], ["C8"]), (["--no_mx"], ["C"]), (["--policies", "A", "B"], ["A", "B"])],
)
def test_without_a_model_the_embedded_config_is_read_and_the_command_line_wins(
    repository: Path, tmp_path: Path, words: list[str], policies: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Recorder()
    arguments = [*words, "--output_dir", str(tmp_path)]
    example = repository / "examples" / "configs" / "grpo_embedded.yaml"
    run_example(stage, GRPOScriptArguments, lambda: GRPOConfig, embedded_config=example,
                arguments=arguments)  # fmt: skip
    assert [policy for policy, _, _ in stage.calls] == policies
    assert {run_dir for _, _, run_dir in stage.calls} == {str(tmp_path)}
    assert len({output for _, output, _ in stage.calls}) == len(policies)
    assert ("Side by side:" in capsys.readouterr().out) is (len(policies) > 1)


def test_a_given_model_is_never_trained_with_the_embedded_settings(repository: Path, tmp_path: Path) -> None:
    stage = Recorder()
    arguments = ["--model_name_or_path", "some/model", "--output_dir", str(tmp_path), "--bf16", "false"]
    example = repository / "examples" / "configs" / "grpo_embedded.yaml"
    run_example(stage, GRPOScriptArguments, lambda: GRPOConfig, embedded_config=example,
                arguments=arguments)  # fmt: skip
    assert [policy for policy, _, _ in stage.calls] == ["C"]


def test_an_error_is_one_message_and_status_2(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = repository / "examples" / "configs" / "grpo_embedded.yaml"
    with pytest.raises(SystemExit) as stopped:
        run_example(run_grpo, GRPOScriptArguments, lambda: GRPOConfig, embedded_config=example,
                    arguments=["--output_dir", str(tmp_path), "--on_unhit", "explode"])  # fmt: skip
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: on_unhit='explode' is not a choice")


def test_a_policy_named_twice_is_refused(tmp_path: Path) -> None:
    script = GRPOScriptArguments(policies=["A", "A"])
    training = GRPOConfig(**SMALL, output_dir=str(tmp_path), num_generations=2)
    with pytest.raises(StageError, match="each may be named once"):
        run_policies(Recorder(), script, training, ModelConfig(), MXConfig())


# ---------------------------------------------------------------------------- with MX


@on_the_ppo_line
def test_the_demo_in_short_leaves_a_run_folder_per_policy_and_its_table(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summaries = run_example(
        run_ppo, PPOScriptArguments, lambda: load_ppo()[0],
        embedded_config=repository / "examples" / "configs" / "ppo_embedded.yaml",
        arguments=["--output_dir", str(tmp_path), "--max_steps", "2", "--per_device_train_batch_size", "8",
                   "--response_length", "8", "--report_to", "none", "--use_cpu"],
    )  # fmt: skip
    assert [summary.policy for summary in summaries] == ["A", "C"]
    for name in ("policy_A", "policy_C"):
        assert json.loads((tmp_path / name / "config.json").read_text())
        assert (tmp_path / name / "energy.csv").stat().st_size > 0
    assert all("rollout" in summary.table for summary in summaries)
    assert "Side by side:" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["A", "C"])
def test_the_reward_of_the_grpo_example_visibly_rises(
    repository: Path, tmp_path: Path, one_thread: None, policy: str
) -> None:
    [summary] = run_example(
        run_grpo, GRPOScriptArguments, lambda: GRPOConfig,
        embedded_config=repository / "examples" / "configs" / "grpo_embedded.yaml",
        arguments=["--output_dir", str(tmp_path), "--report_to", "none", "--policy", policy],
    )  # fmt: skip
    assert sum(summary.rewards[-3:]) / 3 > sum(summary.rewards[:3]) / 3 + 0.3


@on_the_ppo_line
@pytest.mark.slow
@pytest.mark.parametrize("policy", ["A", "C"])
def test_the_reward_of_the_demo_visibly_rises(repository: Path, tmp_path: Path, one_thread: None, policy: str) -> None:
    [summary] = run_example(
        run_ppo, PPOScriptArguments, lambda: load_ppo()[0],
        embedded_config=repository / "examples" / "configs" / "ppo_embedded.yaml",
        arguments=["--output_dir", str(tmp_path), "--report_to", "none", "--policy", policy],
    )  # fmt: skip
    assert sum(summary.rewards[-3:]) / 3 > sum(summary.rewards[:3]) / 3 + 0.3

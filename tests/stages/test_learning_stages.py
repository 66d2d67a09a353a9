"""SFT, the reward model and DPO: short real runs on TRL's own trainers, and what is checked before them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

pytest.importorskip("trl")

from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from mx_plugin.config import MXConfig
from mx_trl.errors import StageError
from mx_trl.stages.final import FINAL
from mx_trl.stages.trainers import load_trainer

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder

KINDS = ("sft", "reward", "dpo")


def numbers(summary: Any) -> list[dict[str, Any]]:
    """The trainer's log without what depends on the clock and without our keys."""
    clock = ("_runtime", "_per_second", "total_flos")
    return [
        {k: v for k, v in entry.items() if not k.endswith(clock) and not k.startswith("mx/")}
        for entry in summary.log_history
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_policy_a_trains_as_plain_trl_does_bit_for_bit(kind: str, stage: Callable[..., Any], tmp_path: Path) -> None:
    plain = stage(kind, output_dir=str(tmp_path / "plain"))
    with_mx = stage(kind, MXConfig(policy="A"))
    assert numbers(with_mx.train()) == numbers(plain.train())
    mine, theirs = with_mx.model.state_dict(), plain.model.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert (tmp_path / kind / "policy_A" / "energy.csv").stat().st_size > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_measures_what_it_learnt_and_ends_with_a_model_that_loads(
    kind: str, stage: Callable[..., Any], tmp_path: Path
) -> None:
    built = stage(kind, MXConfig(policy="C8"), script={"num_eval_examples": 4}, max_steps=1)
    summary = built.run()
    assert summary.steps == 1 and len(summary.rewards) == 1
    assert summary.held_out.count == 4 == len(summary.held_out.after.each)
    assert summary.held_out.before.each != summary.held_out.after.each
    assert str(summary.held_out) in str(summary)
    saved = json.loads((tmp_path / kind / "held_out.json").read_text())
    assert saved["after"]["value"] == summary.held_out.after.value
    folder = tmp_path / kind / FINAL
    auto = AutoModelForSequenceClassification if kind == "reward" else AutoModelForCausalLM
    loaded = auto.from_pretrained(folder).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in built.model.state_dict().items())
    assert AutoTokenizer.from_pretrained(folder).chat_template


@pytest.mark.parametrize("kind", ["dpo"])
def test_measuring_changes_nothing_of_the_training(kind: str, stage: Callable[..., Any], tmp_path: Path) -> None:
    rest = {"num_examples": 8, "num_eval_examples": 0}
    quiet = stage(kind, script=rest, output_dir=str(tmp_path / "quiet"), max_steps=1).train()
    measured = stage(kind, script={"num_eval_examples": 4}, max_steps=1).train()
    assert numbers(measured) == numbers(quiet)
    assert quiet.held_out is None


def test_the_reward_model_learns_scores_by_least_squares(stage: Callable[..., Any], embedded: EmbeddedFolder) -> None:
    script = {"dataset_name": str(embedded.scores), "num_examples": 64, "num_eval_examples": 16}
    summary = stage("reward", MXConfig(policy="C8"), script=script, max_steps=12).train()
    assert summary.held_out.name == "squared error"
    assert sum(summary.rewards[-4:]) < sum(summary.rewards[:4])
    assert summary.held_out.after.value < summary.held_out.before.value


def test_a_reward_model_goes_on_from_a_reward_model(stage: Callable[..., Any], embedded: EmbeddedFolder) -> None:
    built = stage("reward", model=embedded.reward, script={"num_eval_examples": 4}, max_steps=1)
    before = built._measured()
    assert before.value == 1.0, "the embedded reward model counts praise, as the pairs were chosen"


def test_lora_is_merged_into_the_final_model(
    stage: Callable[..., Any], tmp_path: Path, embedded: EmbeddedFolder
) -> None:
    from trl import ModelConfig, SFTConfig

    from mx_trl.stages.arguments import SFTScriptArguments
    from mx_trl.stages.sft import run_sft

    from .conftest import SMALL

    run_sft(
        SFTScriptArguments(dataset_name=str(embedded.dialogues), num_examples=8),
        SFTConfig(**{**SMALL, "max_steps": 1, "output_dir": str(tmp_path)}),
        ModelConfig(model_name_or_path=str(embedded.policy), use_peft=True, lora_r=4),
        MXConfig(policy="C8"),
    )
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / FINAL).state_dict()
    assert not any("lora" in name for name in trained)


# ---------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("kind", "script", "training", "message"),
    [
        ("sft", {"dataset_name": None}, {}, r"no data for .*: give --dataset_name"),
        ("sft", {"num_eval_examples": 12}, {}, r"12 examples without the 12 of --num_eval_examples leave none"),
        ("sft", {"end_token": "none"}, {}, r"SFTTrainer always ends plain text with an end token"),
        ("sft", {"end_token": "<end>"}, {}, r"end token '<end>' is not in the tokenizer's vocabulary"),
        ("sft", {"form": "hh"}, {}, r"no column 'chosen'; columns: prompt, completion"),
        ("reward", {}, {"max_length": 5}, r"all 12 examples are longer than --max_length 5: raise it"),
        ("reward", {"form": "pair"}, {}, r"form='pair' is not a choice for the reward model: auto, pairs"),
        ("dpo", {"form": "scores"}, {}, r"form='scores' is not a choice for pairs: auto, hh_chat"),
        ("dpo", {}, {"max_length": 3}, r"all 12 examples are longer than --max_length 3"),
    ],
)
def test_what_does_not_fit_is_said_before_training(
    stage: Callable[..., Any], kind: str, script: dict[str, Any], training: dict[str, Any], message: str
) -> None:
    with pytest.raises(StageError, match=message):
        stage(kind, script=script, **training)


@pytest.mark.real_data
def test_messages_need_a_chat_template(stage: Callable[..., Any], stories260k: Path) -> None:
    with pytest.raises(
        StageError, match=r"the examples are chat messages but the tokenizer of .* has no chat template"
    ):
        stage("dpo", model=stories260k)


@pytest.mark.real_data
def test_stories260k_learns_from_stories_and_warns_that_one_of_its_end_tokens_is_learnt(
    stage: Callable[..., Any], stories260k: Path, tinystories: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = {"dataset_name": str(tinystories), "num_examples": 12}
    stage("sft", model=stories260k, script=script, max_length=32)
    assert "names 2 end tokens (<s>, </s>), SFTTrainer learns one, '</s>'" in caplog.text
    assert "12 of 12 examples reach max_length, 32 tokens: what lies beyond is cut" in caplog.text
    caplog.clear()
    built = stage("sft", model=stories260k, script={**script, "end_token": "<s>"}, max_length=512)
    assert built.trainer.train_dataset[0]["input_ids"][-1] == 1
    assert "end tokens" not in caplog.text


def test_rows_that_are_too_long_are_counted_the_held_out_ones_too(
    stage: Callable[..., Any], jsonl: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    short, long = ({"prompt": "the garden", "chosen": " is red" * n, "rejected": " is"} for n in (2, 50))
    data = {"dataset_name": jsonl(short, long, short, short, long), "num_eval_examples": 2}
    built = stage("reward", script=data)
    assert "1 of 3 examples are longer than 64 tokens and left out" in caplog.text
    assert "1 of 2 held-out examples are longer than 64 tokens and left out" in caplog.text
    assert len(built.trainer.eval_dataset) == 1


def test_max_length_is_capped_to_the_context(stage: Callable[..., Any]) -> None:
    assert stage("sft").trainer.args.max_length == 64


def test_a_trl_without_the_trainer_is_named_with_the_extra_to_install() -> None:
    with pytest.raises(StageError, match=r"trl 1\.\d+\.\d+ has no KTOTTrainer: pip install 'mx-plugin\[trl\]'"):
        load_trainer("KTOT")

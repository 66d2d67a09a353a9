"""Judges: rules whose right answer is known by hand, models against a computation of one's own."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch

from mx_plugin import plugins
from mx_plugin.hookspecs import hookimpl
from mx_trl.errors import StageError
from mx_trl.evaluation.head import Head, accuracy, fit_head, wilson
from mx_trl.evaluation.judges import JudgeContext, open_judge, parse_judge, scores_of
from mx_trl.evaluation.likelihood import LikelihoodJudge
from mx_trl.evaluation.rules import last_number, reading_ease, syllables
from mx_trl.evaluation.settings import default_judge


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 + 4 = 7\n#### 7", 7),
        ("#### 1,234.50 dollars", Decimal("1234.50")),
        ("It costs $5, so #### $-12", -12),
        ("the answer is 18.0", 18),
        ("first #### 1, no: #### 2", 2),
        ("#### none", None),
        ("", None),
    ],
)
def test_the_answer_is_the_last_number_after_the_last_mark(text: str, number: Any) -> None:
    assert last_number(text) == number


@pytest.mark.real_data
def test_gsm8k_finds_its_own_solutions_right_and_a_neighbours_wrong(data_dir: Path) -> None:
    file = data_dir / "gsm8k" / "test.jsonl.gz"
    judge = open_judge("gsm8k", JudgeContext(str(file), "", Path(), ()))
    from mx_trl.prompts import read_rows

    rows = list(read_rows(str(file)))[:300]
    questions: list[Any] = [row["question"] for row in rows]
    answers = [row["answer"] for row in rows]
    assert judge(questions, answers) == [1.0] * len(rows)
    assert judge([[{"role": "user", "content": q}] for q in questions], answers) == [1.0] * len(rows)
    assert judge(["Solve: " + q + "\nAnswer:" for q in questions], answers) == [1.0] * len(rows)
    assert sum(judge(questions, answers[1:] + answers[:1])) < 20
    with pytest.raises(StageError, match="no question of its data set"):
        judge(["Who are you?"], ["1"])


@pytest.mark.parametrize(
    ("word", "count"), [("cat", 1), ("table", 2), ("make", 1), ("the", 1), ("reading", 2), ("rhythm", 1)]
)
def test_syllables(word: str, count: int) -> None:
    assert syllables(word) == count


def test_reading_ease_is_fleschs_formula() -> None:
    assert reading_ease("The cat sat. The dog ran.") == pytest.approx(206.835 - 1.015 * 3 - 84.6)
    assert reading_ease("Internationalization complicates communication") < 0
    assert reading_ease("...") == 0.0


def test_a_judges_name_and_options_are_read_and_checked(tmp_path: Path) -> None:
    assert parse_judge("likelihood:model=a/b,x=1") == ("likelihood", {"model": "a/b", "x": "1"})
    context = JudgeContext("d", "s", tmp_path, ())
    with pytest.raises(StageError, match="not KEY=VALUE"):
        open_judge("rule:sentiment", context)
    with pytest.raises(StageError, match="did you mean 'gsm8k'"):
        open_judge("gsmk8", context)
    with pytest.raises(StageError, match="takes no option 'size'; its options: name"):
        open_judge("rule:size=3", context)


def test_a_plugins_judge_is_offered_what_it_asks_for(tmp_path: Path) -> None:
    class Plugin:
        @hookimpl
        def mx_register_judges(self, register: Any) -> None:
            register("shortest", lambda dataset: lambda prompts, completions: [-float(len(c)) for c in completions])
            register("broken", lambda: lambda prompts, completions: [float("nan")])

    try:
        plugins.register(Plugin())
        context = JudgeContext("file.jsonl", "s", tmp_path, ())
        assert scores_of(open_judge("shortest", context), "shortest", ["p"], ["four"]) == [-4.0]
        with pytest.raises(StageError, match=r"scored completion 0 \('x'\) as nan"):
            scores_of(open_judge("broken", context), "broken", ["p"], ["x"])
    finally:
        plugins.reset()


def test_each_kind_of_data_has_a_judge_that_is_not_its_reward() -> None:
    assert default_judge("plain_words", ("question", "answer"), "f") == "gsm8k"
    assert default_judge("plain_words", ("text",), "f") == "reading_ease"
    assert default_judge("plain_words", ("chosen", "rejected"), "f") == "preference:pairs=f"
    assert default_judge(None, ("prompt",), "f") == "rule:name=sentiment"
    with pytest.raises(StageError, match="choose one by --judge"):
        default_judge("my.module:rule", ("text",), "f")


# ---------------------------------------------------------------------------- models


@pytest.mark.real_data
def test_likelihood_is_the_models_own_loss_on_the_answer(stories260k: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    judge = LikelihoodJudge(str(stories260k))
    prompt, story, noise = "Once upon a time, there was a", " little girl named Lily.", " xq zzv kk wpt."
    found = judge([prompt, prompt, prompt], [story, noise, ""])
    model, tokenizer = AutoModelForCausalLM.from_pretrained(stories260k), AutoTokenizer.from_pretrained(stories260k)
    before = tokenizer(prompt)["input_ids"]
    after = tokenizer(story, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([before + after])
    with torch.no_grad():
        loss = model(input_ids=ids, labels=torch.tensor([[-100] * len(before) + after])).loss
    assert found[0] == pytest.approx(-float(loss), abs=1e-5)
    assert found[0] > -3 > found[1]
    assert found[2] == pytest.approx(-float(torch.tensor(512.0).log()))  # nothing said: as good as blind guessing
    with pytest.raises(StageError, match="is the model that was trained"):
        LikelihoodJudge(str(stories260k), start=str(stories260k / "."))


def test_the_head_recovers_a_known_preference() -> None:
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(12, generator=generator)
    chosen, rejected = torch.randn(2, 400, 12, generator=generator)
    flip = ((chosen - rejected) @ direction) < 0
    chosen, rejected = torch.where(flip[:, None], rejected, chosen), torch.where(flip[:, None], chosen, rejected)
    head, penalty = fit_head(chosen[:200], rejected[:200], chosen[200:300], rejected[200:300], seed=1)
    assert accuracy(head, chosen[300:], rejected[300:]) > 0.9
    assert torch.cosine_similarity(head.weight / head.scale, direction, dim=0) > 0.95
    assert penalty in (1e-3, 1e-2)
    assert torch.equal(Head.of(head.tensors())(chosen), head(chosen))


def test_wilsons_interval_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle: pip install 'mx-plugin[search]'")
    theirs = stats.binomtest(37, 50).proportion_ci(method="wilson")
    assert wilson(37 / 50, 50) == pytest.approx((theirs.low, theirs.high))


def test_a_preference_judge_is_trained_once_and_keeps_off_the_prompts_that_runs_used(
    tmp_path: Path, embedded_policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    kind, unkind = ("kind", "lovely", "warm"), ("awful", "cruel", "dirty")
    rows = [
        {"prompt": f"describe the {noun} {n}", "chosen": f" the {noun} is {kind[n % 3]} .",
         "rejected": f" the {noun} is {unkind[n % 3]} ."}
        for n, noun in enumerate(["garden", "house", "street", "river", "boat", "lamp"] * 10)
    ]  # fmt: skip
    pairs.write_text("\n".join(map(json.dumps, rows)) + "\n")
    context = JudgeContext("d", str(embedded_policy), tmp_path / "judge", [row["prompt"] for row in rows[:20]])
    judge: Any = open_judge(f"preference:pairs={pairs}", context)
    record = judge.describe()
    assert record["training_pairs"] + 2 * record["held_out_pairs"] == 40  # of 60, those of 20 prompts are left out
    assert record["held_out_accuracy"] == 1.0
    assert "right on 100.0% of 8 held-out pairs" in capsys.readouterr().err
    good, bad = judge(["describe the bridge"] * 2, [" the bridge is lovely .", " the bridge is awful ."])
    assert good > bad
    (made,) = (tmp_path / "judge").glob("*.safetensors")
    changed = made.stat().st_mtime_ns
    again: Any = open_judge(f"preference:pairs={pairs}", context)
    assert made.stat().st_mtime_ns == changed and again.describe() == record
    with pytest.raises(StageError, match="at least 20 are needed"):
        open_judge(f"preference:pairs={pairs},num_pairs=10", context)

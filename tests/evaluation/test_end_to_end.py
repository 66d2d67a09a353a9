"""A real experiment in miniature: models that learned kind words, others that learned unkind ones, judged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mx_plugin.cli import main
from mx_plugin.execution.phases import TRACKER
from mx_plugin.experiments.plan import Plan
from mx_trl.errors import StageError
from mx_trl.evaluation import ResultsEvaluation, evaluate_run
from tests.evaluation.trained import KIND, UNKIND, make_results

TEXT = "the garden is lovely and warm . " * 20
pytestmark = pytest.mark.trl("")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, embedded_policy: Path) -> Path:
    """A and C learned the same, B the opposite; evaluated by the command."""
    folder = tmp_path_factory.mktemp("experiment") / "results"
    make_results(folder, embedded_policy.parent, {"A": ("A", KIND), "C": ("C", KIND), "B": ("C", UNKIND)}, [1, 2, 3])
    text = folder.parent / "text.txt"
    text.write_text(TEXT)
    assert main(["evaluate", str(folder), "--text", str(text), "--num_prompts", "24"]) == 0
    return folder


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_the_verdicts_are_those_that_the_models_deserve(results: Path) -> None:
    found = read(results / "comparison.json")
    assert found["baseline_over_start"]["unquantised"]["beyond_noise"], found["baseline_over_start"]
    assert found["runs"]["C"]["unquantised"]["verdict"] == "non-inferior"  # the very same weights
    assert found["runs"]["C"]["unquantised"]["win_rate"]["ties"] == 3 * 24
    for form in ("unquantised", "deployed"):
        assert found["runs"]["B"][form]["verdict"] == "worse"
        assert found["runs"]["B"][form]["win_rate"]["value"] < 0.2


def test_the_start_is_its_own_reference_and_training_moved_away_from_it(results: Path) -> None:
    start, trained = read(results / "start/evaluation.json"), read(results / "runs/A/seed_1/evaluation.json")
    assert start["unquantised"]["kl_reference"] == 0.0
    assert trained["unquantised"]["kl_reference"] > 0.05
    assert trained["unquantised"]["reward_mean"] > start["unquantised"]["reward_mean"]


def test_policy_a_is_deployed_as_it_is_and_c_in_its_rollout_formats(results: Path) -> None:
    plain, packed = (read(results / f"runs/{name}/seed_1/evaluation.json") for name in ("A", "C"))
    assert plain["deployed"]["same_as"] == "unquantised"
    assert packed["unquantised"]["judge_mean"] == plain["unquantised"]["judge_mean"]
    assert packed["unquantised"]["mismatch"]["kl"] == 0.0
    assert 0 < packed["deployed"]["mismatch"]["kl"] < 0.1
    assert packed["deployed"]["perplexity"] != packed["unquantised"]["perplexity"]


def test_the_unquantised_form_is_what_the_plain_model_says(results: Path) -> None:
    """transformers alone, without any of our code between, gives the first answers and their perplexity."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = results / "runs/C/seed_1"
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model", padding_side="left")
    rows = [json.loads(line) for line in (folder / "evaluation_prompts.jsonl").open()][:24]
    texts = [
        f"<|im_start|>user\n{row['prompt'].removeprefix(chr(10) * 2 + 'Human: ').split(chr(10))[0]}<|im_end|>\n"
        "<|im_start|>assistant\n"
        for row in rows
    ]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    torch.manual_seed(0)
    made = model.generate(**batch, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=12)
    found = read(folder / "evaluation.json")
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        losses = [
            (float(model(input_ids=torch.tensor([w]), labels=torch.tensor([w])).loss), len(w) - 1)
            for w in (ids[start : start + 64] for start in range(0, len(ids), 64))
        ]
    mean = sum(loss * count for loss, count in losses) / sum(count for _, count in losses)
    assert found["unquantised"]["perplexity"] == pytest.approx(math.exp(mean), rel=1e-4)
    said = tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    assert said == [row["response"] for row in rows]


def test_nothing_is_evaluated_twice_unless_asked_for_and_then_gives_the_same(results: Path) -> None:
    plan = Plan.read(results / "plan.json")
    file = results / "runs/C/seed_2/evaluation_prompts.jsonl"
    before, made = file.read_text(), file.stat().st_mtime_ns
    ResultsEvaluation(results)  # loads nothing
    assert main(["evaluate", str(results), "--num_prompts", "24"]) == 0
    assert file.stat().st_mtime_ns == made
    evaluate_run(results / "runs/C/seed_2", plan, num_prompts=24)
    assert file.stat().st_mtime_ns != made and file.read_text() == before
    assert TRACKER.phase == "other"


def test_the_training_reward_must_not_judge(results: Path) -> None:
    with pytest.raises(StageError, match="were trained on sentiment; judge by something else"):
        ResultsEvaluation(results, reward="sentiment").start()


def test_options_that_do_not_exist_and_numbers_that_cannot_be_are_refused(results: Path) -> None:
    with pytest.raises(StageError, match="did you mean 'num_prompts'"):
        ResultsEvaluation(results, num_prompt=3)
    with pytest.raises(StageError, match="num_prompts is 0"):
        ResultsEvaluation(results, num_prompts=0)


def test_a_run_without_weights_cannot_be_evaluated(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (results / "runs/B/seed_2/model").rename(results / "moved")
    try:
        assert main(["evaluate", str(results), "--again", "--num_prompts", "0"]) == 2
        assert "num_prompts is 0" in capsys.readouterr().err
        work = ResultsEvaluation(results)
        with pytest.raises(Exception, match="weights were removed"):
            work.run(work.plan.named("B")[1])
    finally:
        (results / "moved").rename(results / "runs/B/seed_2/model")

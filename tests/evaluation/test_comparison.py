"""comparison.json on folders whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mx_plugin.experiments.comparison import compare_results
from mx_plugin.experiments.errors import ExperimentError
from mx_plugin.experiments.statistics import bootstrap_interval
from mx_plugin.experiments.words import comparison_lines
from tests.evaluation.synthetic import Drawn, write_results

SAME = Drawn(0.5)


def test_each_verdict_is_reached_on_a_folder_that_deserves_it(tmp_path: Path) -> None:
    runs = {
        "A": SAME,
        "good": Drawn(0.9),
        "bad": Drawn(0.1),
        "same": Drawn(0.5, seed_spread=0.0),
        "odd": Drawn(0.5, seed_spread=0.4),
    }
    write_results(tmp_path, runs, prompts=400, margin={"metric": "judge", "value": 0.15})
    found = compare_results(tmp_path)
    words = {name: forms["unquantised"].get("verdict") for name, forms in found["runs"].items()}
    assert words == {"A": None, "good": "better", "bad": "worse", "same": "non-inferior", "odd": "inconclusive"}
    assert found["baseline_over_start"]["unquantised"]["beyond_noise"]
    assert json.loads((tmp_path / "comparison.json").read_text()) == found


def test_the_noise_floor_is_the_baselines_against_itself_where_it_was_trained_twice(tmp_path: Path) -> None:
    alone = {"A": Drawn(0.3, seed_spread=0.2, policy="A"), "C": Drawn(0.2)}
    write_results(tmp_path / "alone", alone)
    twice = {**alone, "aa": Drawn(0.3, seed_spread=0.2, policy="A", control="aa", about={"of": "A"})}
    write_results(tmp_path / "twice", twice)
    noise = compare_results(tmp_path / "twice")["noise"]["unquantised"]
    assert {one["from"] for one in noise.values()} == {"aa against A"}
    judged = {
        name: [json.loads((tmp_path / f"twice/runs/{name}/seed_{seed}/evaluation.json").read_text())["unquantised"]
               ["judge_mean"] for seed in (1, 2, 3)]
        for name in ("A", "aa")
    }  # fmt: skip
    apart = [a - b for a, b in zip(judged["aa"], judged["A"], strict=True)]
    assert noise["judge"]["largest_difference"] == pytest.approx(max(map(abs, apart)))
    without = compare_results(tmp_path / "alone")["noise"]["unquantised"]["judge"]
    assert without["from"] == "the seeds of A"


def test_forms_are_compared_apart(tmp_path: Path) -> None:
    write_results(tmp_path, {"A": SAME, "D": Drawn(0.5, deployed_loss=0.4)}, prompts=200)
    forms = compare_results(tmp_path)["runs"]["D"]
    assert forms["deployed"]["verdict"] == "worse"
    assert forms["unquantised"]["verdict"] != "worse"


def test_a_baseline_that_learned_nothing_makes_all_inconclusive(tmp_path: Path) -> None:
    write_results(tmp_path, {"A": Drawn(0.0), "D": Drawn(0.9)})
    found = compare_results(tmp_path)
    assert found["runs"]["D"]["unquantised"]["verdict"] == "inconclusive"
    assert "nothing that D could have lost" in found["runs"]["D"]["unquantised"]["why"]


def test_numbers_are_those_of_the_files(tmp_path: Path) -> None:
    write_results(tmp_path, {"A": SAME, "D": Drawn(0.6)}, prompts=30)
    found = compare_results(tmp_path)["runs"]["D"]["unquantised"]
    tables = {}
    for name in ("A", "D"):
        rows = [
            [json.loads(line) for line in (tmp_path / f"runs/{name}/seed_{s}/evaluation_prompts.jsonl").open()]
            for s in (1, 2, 3)
        ]
        tables[name] = np.array([[r["judge"] for r in seed if r["form"] == "unquantised"] for seed in rows])
    difference = tables["D"] - tables["A"]
    assert found["deltas"]["judge"]["value"] == pytest.approx(difference.mean())
    assert found["win_rate"]["value"] == pytest.approx((difference > 0).mean())
    assert found["win_rate"]["wins"] == (difference > 0).sum() and found["win_rate"]["ties"] == 0
    assert found["deltas"]["judge"]["low"] == pytest.approx(bootstrap_interval(difference).low)
    assert found["deltas"]["perplexity"]["low"] < found["deltas"]["perplexity"]["value"]


def test_a_control_is_compared_with_what_it_controls(tmp_path: Path) -> None:
    runs = {"A": SAME, "D": Drawn(0.5), "random-D": Drawn(0.3, control="random", about={"of": "D"})}
    write_results(tmp_path, runs)
    found = compare_results(tmp_path)
    assert list(found["controls"]) == ["random-D against D"]
    assert found["controls"]["random-D against D"]["deployed"]["deltas"]["judge"]["high"] < 0


def test_what_is_not_evaluated_is_named_and_the_rest_compared(tmp_path: Path) -> None:
    write_results(tmp_path, {"A": SAME, "D": SAME}, evaluated=lambda name, seed: (name, seed) != ("D", 2))
    found = compare_results(tmp_path)
    assert found["not_evaluated"] == ["D seed 2"]
    assert found["runs"]["D"]["unquantised"]["seeds_in_common"] == [1, 3]


def test_one_seed_is_inconclusive_and_says_so(tmp_path: Path) -> None:
    write_results(tmp_path, {"A": SAME, "D": SAME}, seeds=(1,))
    found = compare_results(tmp_path)
    assert found["runs"]["D"]["deployed"]["verdict"] == "inconclusive"
    assert "unknown with one seed" in "\n".join(comparison_lines(found))


def test_words_tell_margin_detectable_effect_verdict_and_controls(tmp_path: Path) -> None:
    runs = {"A": SAME, "D": Drawn(0.9), "random-D": Drawn(0.3, control="random", about={"of": "D"})}
    write_results(tmp_path, runs)
    text = "\n".join(comparison_lines(compare_results(tmp_path)))
    for part in (
        "margin declared beforehand: win_rate 0.05",
        "minimum detectable effect of win_rate",
        "D: better - ",
        "random-D against D: win rate",
        "ties",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row | {"prompt_id": "another"}, "different prompts"),
        (lambda row: row | {"judge": None}, "has no judge|different prompts"),
    ],
)
def test_evaluations_that_do_not_belong_together_are_refused(tmp_path: Path, change: object, message: str) -> None:
    write_results(tmp_path, {"A": SAME, "D": SAME})
    file = tmp_path / "runs/D/seed_2/evaluation_prompts.jsonl"
    lines = file.read_text().splitlines()
    lines[0] = json.dumps(change(json.loads(lines[0])))  # type: ignore[operator]
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(ExperimentError, match=message):
        compare_results(tmp_path)


def test_two_judges_in_one_comparison_are_refused(tmp_path: Path) -> None:
    write_results(tmp_path, {"A": SAME, "D": SAME})
    file = tmp_path / "runs/D/seed_2/evaluation.json"
    data = json.loads(file.read_text())
    data["settings"]["judge"] = "gsm8k"
    file.write_text(json.dumps(data))
    with pytest.raises(ExperimentError, match=r"evaluated differently \(judge 'rule:name=sentiment' and 'gsm8k'\)"):
        compare_results(tmp_path)


def test_a_half_written_evaluation_names_its_file(tmp_path: Path) -> None:
    write_results(tmp_path, {"A": SAME, "D": SAME})
    (tmp_path / "runs/D/seed_1/evaluation.json").write_text('{"unquantised": ')
    with pytest.raises(ExperimentError, match=r"runs/D/seed_1 \(.*--again"):
        compare_results(tmp_path)


def test_a_folder_without_plan_or_baseline_says_what_lacks(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"no plan\.json"):
        compare_results(tmp_path / "empty")
    write_results(tmp_path / "r", {"A": SAME, "D": SAME}, evaluated=lambda name, seed: name == "D")
    with pytest.raises(ExperimentError, match="baseline A has not been evaluated"):
        compare_results(tmp_path / "r")

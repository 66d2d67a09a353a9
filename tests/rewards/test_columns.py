"""Rules that need the data set's answers: found by prompt for GRPO, by token ids for PPO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mx_trl.errors import StageError
from mx_trl.rewards import RuleReward, find_rule
from mx_trl.rewards.columns import ColumnsByTokens, prompt_columns


def jsonl(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


ROWS = [
    {"question": "one and one", "answer": "#### 2"},
    {"question": "two and one", "answer": "#### 3"},
    {"question": "one and one", "answer": "#### 2"},
]


def test_columns_come_in_the_order_of_the_prompts(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "d.jsonl", *ROWS, {"answer": "a row that read_prompts has reported"})
    found = prompt_columns(["two and one", "one and one"], ["answer"], source, "question")
    assert found == {"answer": ["#### 3", "#### 2"]}
    assert prompt_columns(["two and one"], [], source, "question") == {}


@pytest.mark.real_data
def test_every_real_solution_is_worth_one(data_dir: Path) -> None:
    from mx_trl.prompts import read_prompts

    file = next(iter(sorted((data_dir / "gsm8k").glob("*.jsonl*"))), None)
    if file is None:
        pytest.skip(f"MX_TEST_DATA={data_dir} holds no gsm8k")
    prompts = read_prompts(str(file), "question")
    columns = prompt_columns(prompts, ["answer"], str(file), "question")
    scores = find_rule("gsm8k")(prompts=prompts, completions=columns["answer"], **columns)
    assert len(scores) == len(prompts) > 100 and set(scores) == {1.0}


def test_two_answers_to_one_prompt_are_refused(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "d.jsonl", *ROWS, {"question": "one and one", "answer": "#### 3"})
    with pytest.raises(StageError, match=r"d\.jsonl, line 4: its prompt stands in another row with other answer"):
        prompt_columns(["one and one"], ["answer"], source, "question")


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "d.jsonl", {"question": "one and one", "solution": "2"})
    with pytest.raises(StageError, match=r"line 1: the reward needs the column 'answer'; columns: question, solution"):
        prompt_columns(["one and one"], ["answer"], source, "question")


def test_token_ids_lead_to_the_columns() -> None:
    table = ColumnsByTokens([[1, 2], [3]], {"answer": ["2", "3"]})
    assert table.of([[3], [1, 2], [3]]) == {"answer": ["3", "2", "3"]}
    with pytest.raises(StageError, match="a prompt of 2 tokens"):
        table.of([[2, 1]])
    with pytest.raises(StageError, match="prompt 2 has the tokens of another with other answer"):
        ColumnsByTokens([[1], [1]], {"answer": ["2", "3"]})


def test_a_rule_without_its_columns_is_no_reward_for_ppo() -> None:
    with pytest.raises(StageError, match="reward gsm8k needs the data set's answer"):
        RuleReward(find_rule("gsm8k"), None, 4)  # type: ignore[arg-type]

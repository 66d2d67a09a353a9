"""Rules over text, and the module through which PPO sees one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("trl")

from mx_trl.embedded import EmbeddedFolder
from mx_trl.errors import StageError
from mx_trl.models import load_tokenizer
from mx_trl.prompts import encode
from mx_trl.rewards import RuleReward, find_rule
from mx_trl.rewards.lexicon import NEGATIVE, POSITIVE


@pytest.mark.parametrize(
    ("rule", "text", "score"),
    [
        ("positive_words", "A good, GREAT day.", 0.5),
        ("sentiment", "A good, GREAT day.", 0.5),
        ("sentiment", "Good and bad and sad!", -0.2),
        ("plain_words", "We like it enormously", 0.75),
        ("length:4", "one two", -0.5),
        ("length:4", "one two three four", 0.0),
    ],
)
def test_a_rule_scores_a_text(rule: str, text: str, score: float) -> None:
    assert find_rule(rule)(completions=[text], prompts=["?"]) == pytest.approx([score])


@pytest.mark.parametrize(
    ("rule", "score"), [("positive_words", 0), ("sentiment", 0), ("plain_words", 0), ("length:3", -1)]
)
def test_an_empty_completion_has_a_score_too(rule: str, score: float) -> None:
    assert find_rule(rule)(completions=["", " ..."]) == [score, score]


def test_a_completion_may_be_a_list_of_messages() -> None:
    assert find_rule("positive_words")(completions=[[{"role": "assistant", "content": "good"}]]) == [1.0]


def test_no_word_is_positive_and_negative() -> None:
    assert not set(POSITIVE) & set(NEGATIVE)
    assert len(set(POSITIVE)) == len(POSITIVE) and len(set(NEGATIVE)) == len(NEGATIVE)


def test_a_rule_may_be_any_importable_function() -> None:
    assert find_rule("mx_trl.rewards.rules:sentiment")(completions=["good"]) == [1.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sentimant", "unknown reward 'sentimant': did you mean 'sentiment'"),
        ("length:long", "write the target in words, e.g. length:24"),
        ("length:0", "at least 1 word"),
        ("no.such.module:f", "cannot be imported: No module named 'no'"),
        ("mx_trl.rewards.rules:nothing", "cannot be imported"),
        ("mx_trl.rewards.lexicon:POSITIVE", "is a tuple, not a function"),
    ],
)
def test_an_unknown_rule_says_which_there_are(name: str, message: str) -> None:
    with pytest.raises(StageError, match=message):
        find_rule(name)


# ---------------------------------------------------------------------------- as PPO's reward model

WIDTH, RESPONSE = 24, 8


def rows(embedded: EmbeddedFolder, answers: list[str]) -> tuple[Any, torch.Tensor]:
    """Queries padded left to WIDTH and answers padded right to RESPONSE tokens, as PPOTrainer lays them out."""
    tokenizer = load_tokenizer(str(embedded.policy))
    query = encode([{"role": "user", "content": "describe the garden"}], tokenizer)
    table = torch.full((len(answers), WIDTH + RESPONSE), tokenizer.pad_token_id)
    for row, answer in zip(table, answers, strict=True):
        ids = tokenizer(answer)["input_ids"]
        row[WIDTH - len(query) : WIDTH] = torch.tensor(query)
        row[WIDTH : WIDTH + len(ids)] = torch.tensor(ids)
    return tokenizer, table


@pytest.mark.trl("<1.13")
def test_ppo_reads_the_rules_score_of_each_response(embedded: EmbeddedFolder) -> None:
    from trl.experimental.utils import get_reward

    answers = [" good bad good good", " the garden is good<|im_end|>", "<|im_end|>", " bad" * RESPONSE]
    tokenizer, table = rows(embedded, answers)
    reward = RuleReward(find_rule("sentiment"), tokenizer, WIDTH)
    _, scores, _ = get_reward(reward, table, tokenizer.pad_token_id, WIDTH)
    assert scores.tolist() == pytest.approx([0.5, 0.25, 0.0, -1.0])


@pytest.mark.trl("<1.13")
def test_a_response_of_padding_only_is_an_empty_text(embedded: EmbeddedFolder) -> None:
    from trl.experimental.utils import get_reward

    tokenizer, table = rows(embedded, [""])
    reward = RuleReward(find_rule("length:4"), tokenizer, WIDTH)
    assert get_reward(reward, table, tokenizer.pad_token_id, WIDTH)[1].tolist() == [-1.0]


def test_the_rule_sees_prompts_and_responses_apart_and_without_special_tokens(embedded: EmbeddedFolder) -> None:
    seen: dict[str, list[str]] = {}

    def rule(**texts: list[str]) -> list[float]:
        seen.update(texts)
        return [0.0]

    tokenizer, table = rows(embedded, [" the garden is good<|im_end|>"])
    mask = table != tokenizer.pad_token_id
    RuleReward(rule, tokenizer, WIDTH).text(table.masked_fill(~mask, 0), mask)
    assert seen == {"prompts": ["user\ndescribe the garden\nassistant\n"], "completions": [" the garden is good"]}


def test_a_rule_that_gives_too_few_scores_is_named(embedded: EmbeddedFolder) -> None:
    def forgetful(**_: Any) -> list[float]:
        return []

    tokenizer, table = rows(embedded, [" good"])
    with pytest.raises(StageError, match="forgetful gave 0 scores for 1 texts"):
        RuleReward(forgetful, tokenizer, WIDTH).text(table, table != tokenizer.pad_token_id)

"""Preferred endings, length penalty, right numbers, and weighted sums."""

from __future__ import annotations

from typing import Any

import pytest

from mx_trl.errors import StageError
from mx_trl.rewards import Composite, columns_of, find_rule, rule_name, shared_rules


@pytest.mark.parametrize(
    ("rule", "text", "score"),
    [
        ("sentence_end", "It rained all day.", 1),
        ("sentence_end", 'She said "no!" ', 1),
        ("sentence_end", "He said \u201cwhy?\u201d\n", 1),
        ("sentence_end", "It rained all", 0),
        ("sentence_end", "", 0),
        ("ending:the end|ever after", "And so, THE  END.", 1),
        ("ending:the end|ever after", 'They lived "happily ever after"!', 1),
        ("ending:the end", "Call your friend", 0),
        ("ending:end", "Call your friend", 0),
        ("ending:the end", "The end is near", 0),
        ("ending:the end", "", 0),
        ("ending:!", "Stop!", 1),
        ("ending:!", "Stop.", 0),
        ("length_penalty:4", "one two three four", 0),
        ("length_penalty:4", "one two", 0),
        ("length_penalty:4", "one two three four five six", -0.5),
    ],
)
def test_a_rule_scores_a_text(rule: str, text: str, score: float) -> None:
    assert find_rule(rule)(completions=[text], prompts=["?"]) == [score]


@pytest.mark.parametrize(
    ("completion", "answer", "score"),
    [
        ("6 * 7 = 42", "Six times seven is 42.\n#### 42", 1.0),
        ("#### 42\nThat is my answer, I had 3 tries", "#### 42", 0.0),
        ("It costs $1,000.00", "#### 1000", 1.0),
        ("I do not know", "#### 42", 0.0),
        ("41", 42, 0.0),
        ("-3", -3, 1.0),
    ],
)
def test_the_right_number_is_worth_one(completion: str, answer: Any, score: float) -> None:
    assert find_rule("gsm8k")(prompts=["?"], completions=[completion], answer=[answer]) == [score]


def test_the_column_of_right_answers_can_be_named() -> None:
    rule = find_rule("gsm8k:solution")
    assert columns_of(rule) == ("solution",)
    messages = [{"role": "assistant", "content": "It is 7"}]
    assert rule(prompts=["?"], completions=[messages], solution=["7"]) == [1.0]


def test_an_answer_without_a_number_and_a_missing_column_are_errors() -> None:
    with pytest.raises(StageError, match="no number in the right answer 'none'"):
        find_rule("gsm8k")(completions=["1"], answer=["none"])
    with pytest.raises(StageError, match=r"column 'answer', which it was not given.*gsm8k:COLUMN"):
        find_rule("gsm8k")(completions=["1"])


# ---------------------------------------------------------------------------- sums


@pytest.mark.parametrize(
    "words",
    [
        "sentiment + 0.5*length:4",
        "sentiment+.5*length:4",
        "1.0 * sentiment + 0.5 * length:4",
        "0.5*length:4 + sentiment",
    ],
)
def test_a_sum_weighs_its_rules(words: str) -> None:
    rule = find_rule(words)
    assert isinstance(rule, Composite)
    # sentiment: (2 good - 0 bad) / 2 words; length: -|2 - 4| / 4
    assert rule(prompts=["?"], completions=["good fun"]) == [1.0 + 0.5 * -0.5]


def test_weights_may_be_negative_and_one_rule_may_have_one() -> None:
    assert find_rule("-2*sentiment")(completions=["good day"]) == [-1.0]
    assert find_rule("sentence_end + -1*sentiment")(completions=["good."]) == [0.0]


def test_a_sum_hands_columns_on_and_asks_for_them() -> None:
    rule = find_rule("gsm8k + 0.1*gsm8k:other + sentiment")
    assert columns_of(rule) == ("answer", "other")
    assert rule(completions=["7"], answer=["7"], other=["8"]) == [1.0]


def test_the_mean_of_every_part_is_logged_where_the_trainer_offers_it() -> None:
    told: dict[str, float] = {}
    rule = find_rule("sentiment + 0.5*length:4")
    rule(completions=["good day", "bad"], log_metric=lambda name, value: told.update({name: value}))
    assert told == {"reward/sentiment": -0.25, "reward/length_4": -0.625}
    assert rule_name(rule) == "sentiment+0.5*length_4"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sentiment + lenth:4", "reward 'lenth:4' cannot be imported|unknown reward"),
        ("sentiment + plain_wrods", "unknown reward 'plain_wrods': did you mean 'plain_words'"),
        ("0*sentiment", "the weight of 'sentiment' is 0"),
        ("sentiment + model", "a sum is of rules; 'model' stands alone"),
        ("sentiment + ", "unknown reward|empty term"),
        ("sentiment:0.5", r"a weight stands in front, 0\.5\*sentiment|weight stands in front"),
        ("length:24:0.5", "write the target in words"),
        ("length_penalty:0", "at least 1 word"),
        ("ending:", "write ending:TEXT"),
        ("ending:a|", "give preferred endings"),
        ("length", "write length:WORDS"),
    ],
)
def test_what_cannot_be_a_reward_says_why(words: str, message: str) -> None:
    with pytest.raises(StageError, match=message):
        find_rule(words)


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ("sentiment", "sentiment", ["sentiment"]),
        ("sentiment", "0.5*length:4 + sentiment", ["sentiment"]),
        ("length:4", "length:5 + sentiment", []),
        ("sentiment", "model", []),
        ("sentiment", None, []),
        ("sentiment", "no.such.module:f", []),
        ("no.such.module:f", "no.such.module:f", ["no.such.module:f"]),
    ],
)
def test_a_judge_that_a_sum_was_trained_on_is_found(first: str, second: str | None, shared: list[str]) -> None:
    assert shared_rules(first, second) == shared


def test_a_part_that_gives_too_few_scores_is_named() -> None:
    def forgetful(**_: Any) -> list[float]:
        return []

    with pytest.raises(StageError, match="forgetful gave 0 scores for 1 completions"):
        Composite([(1.0, forgetful), (2.0, find_rule("sentiment"))])(completions=["good"])

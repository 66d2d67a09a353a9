"""The forms in which the field writes examples, and what TRL is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from mx_trl.data.completions import CompletionForm
from mx_trl.data.examples import read_examples
from mx_trl.data.preferences import PairForm, ScoreForm
from mx_trl.errors import StageError
from mx_trl.stages.reward import RewardForm

ASK = [{"role": "user", "content": "Hi"}]
YES, NO = [{"role": "assistant", "content": "Yes."}], [{"role": "assistant", "content": "No."}]
BEGINNING = "\n\nHuman: Hi there\n\nAssistant: Hello.\n\nHuman: Who are you?\n\nAssistant:"
TURNS = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Who are you?"},
]
HH = {"chosen": f"{BEGINNING} A friend.", "rejected": f"{BEGINNING} Nobody."}


# ---------------------------------------------------------------------------- SFT


@pytest.mark.parametrize(
    ("row", "form", "example"),
    [
        ({"text": "A story."}, {}, {"text": "A story."}),
        ({"prompt": "One and", "completion": " two"}, {}, {"prompt": "One and", "completion": " two"}),
        ({"prompt": ASK, "completion": YES}, {}, {"prompt": ASK, "completion": YES}),
        ({"document": "Long", "target": "Short"}, {}, {"prompt": "Long\n", "completion": "Short"}),
        ({"document": "Long", "target": "Short"}, {"separator": " TL;DR "}, {"prompt": "Long TL;DR ",
                                                                             "completion": "Short"}),
        ({"question": "Hi", "answer": "Yes."}, {"as_chat": True}, {"prompt": ASK, "completion": YES}),
        ({"messages": ASK + YES}, {}, {"messages": ASK + YES}),
        ({"q": "Hi", "a": "Yes."}, {"prompt_column": "q", "completion_column": "a"}, {"prompt": "Hi\n",
                                                                                      "completion": "Yes."}),
        ({"prompt": ASK, "chosen": YES}, {"prompt_column": "prompt", "completion_column": "chosen"},
         {"prompt": ASK, "completion": YES}),
        (HH, {"form": "hh"}, {"prompt": BEGINNING, "completion": " A friend."}),
        (HH, {"form": "hh_chat"}, {"prompt": TURNS, "completion": [{"role": "assistant", "content": "A friend."}]}),
    ],
)  # fmt: skip
def test_a_row_becomes_an_example_of_sft(
    jsonl: Callable[..., str], row: dict[str, Any], form: dict[str, Any], example: dict[str, Any]
) -> None:
    assert read_examples(jsonl(row), CompletionForm(**form)) == [example]


@pytest.mark.parametrize(
    ("rows", "form", "message"),
    [
        (
            [{"title": "x"}],
            {},
            "line 1: no form of SFT has the columns title; known are text, messages and prompt/comp",
        ),
        ([{"text": "x"}], {"form": "pair"}, "no form of SFT has the columns text"),
        ([{"prompt": "x", "completion": YES}], {}, r"text in one column and messages in another \(prompt: text, compl"),
        ([{"messages": [{"role": "user"}]}], {}, r"message 1 of column 'messages' is .*: role and content are needed"),
        ([{"messages": ASK}], {}, "no message of the assistant, so there is nothing to learn"),
        ([{"messages": []}], {}, r"column 'messages' holds \[\], not a list of messages"),
        ([{"chosen": "text"}], {"form": "hh"}, "holds no dialogue of hh-rlhf: the assistant has no turn"),
        ([{"chosen": BEGINNING}], {"form": "hh"}, "the assistant's last turn is empty"),
        (
            [{"prompt": "x", "completion": "y"}, {"prompt": ASK, "completion": YES}],
            {},
            "line 2: prompt is messages, but",
        ),
    ],
)
def test_a_row_that_is_no_example_of_sft_says_why(
    jsonl: Callable[..., str], rows: list[dict[str, Any]], form: dict[str, Any], message: str
) -> None:
    with pytest.raises(StageError, match=message):
        read_examples(jsonl(*rows), CompletionForm(**form))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "txt"}, "form='txt' is not a choice for SFT: auto, text, pair"),
        ({"prompt_column": "q"}, "belong together"),
        ({"form": "text", "prompt_column": "q", "completion_column": "a"}, "are for --form pair, not 'text'"),
    ],
)
def test_options_of_sft_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StageError, match=message):
        CompletionForm(**options)


# ---------------------------------------------------------------------------- pairs


@pytest.mark.parametrize(
    ("row", "form", "example"),
    [
        ({"prompt": "Is", "chosen": " it", "rejected": " at"}, "auto", {"prompt": "Is", "chosen": " it",
                                                                       "rejected": " at"}),
        ({"prompt": ASK, "chosen": YES, "rejected": NO, "margin": 2}, "auto",
         {"prompt": ASK, "chosen": YES, "rejected": NO, "margin": 2.0}),
        ({"chosen": ASK + YES, "rejected": ASK + NO}, "auto", {"prompt": ASK, "chosen": YES, "rejected": NO}),
        ({"prompt": "Hi", "chosen": ASK + YES, "rejected": ASK + NO, "margin": None}, "auto",
         {"prompt": ASK, "chosen": YES, "rejected": NO}),
        ({"chosen": "The cat sat", "rejected": "The cat ran"}, "auto",
         {"prompt": "The cat", "chosen": " sat", "rejected": " ran"}),
        (HH, "auto", {"prompt": BEGINNING, "chosen": " A friend.", "rejected": " Nobody."}),
        (HH, "hh_chat", {"prompt": TURNS, "chosen": [{"role": "assistant", "content": "A friend."}],
                         "rejected": [{"role": "assistant", "content": "Nobody."}]}),
    ],
)  # fmt: skip
def test_a_row_becomes_a_pair(
    jsonl: Callable[..., str], row: dict[str, Any], form: str, example: dict[str, Any]
) -> None:
    assert read_examples(jsonl(row), PairForm(form)) == [example]


def test_dialogues_that_part_early_are_cut_where_they_part(jsonl: Callable[..., str]) -> None:
    other = "\n\nHuman: Hi there\n\nAssistant: Go.\n\nHuman: Why?\n\nAssistant: Because."
    [pair] = read_examples(jsonl({"chosen": HH["chosen"], "rejected": other}), PairForm("hh_chat"))
    assert pair["prompt"] == TURNS[:1]
    assert [turn["role"] for turn in pair["chosen"]] == ["assistant", "user", "assistant"]
    assert pair["rejected"][0]["content"] == "Go."


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "x"}, "no column 'rejected'"),
        ({"prompt": "x", "chosen": "y", "rejected": "y"}, "chosen and rejected are the same"),
        ({"chosen": "ab", "rejected": "cd"}, "have no common beginning, and there is no column 'prompt'"),
        ({"chosen": YES, "rejected": NO}, "share no first message"),
        ({"prompt": "x", "chosen": YES, "rejected": NO}, "text in one column and messages in another"),
        ({"prompt": "x", "chosen": "y", "rejected": "z", "margin": "big"}, "column 'margin' holds 'big', not a finite"),
    ],
)
def test_a_row_that_is_no_pair_says_why(jsonl: Callable[..., str], row: dict[str, Any], message: str) -> None:
    with pytest.raises(StageError, match=f"line 1: .*{message}"):
        read_examples(jsonl(row), PairForm())


# ---------------------------------------------------------------------------- scores


def test_answers_with_scores_are_told_from_pairs_by_their_columns(jsonl: Callable[..., str]) -> None:
    form = RewardForm("auto", "score")
    assert "chosen" in read_examples(jsonl({"prompt": "a", "chosen": "b", "rejected": "c"}), form)[0]
    assert read_examples(jsonl({"prompt": "a", "response": " b", "score": 1}), form) == [{"text": "a b", "score": 1.0}]
    row = {"prompt": ASK, "completion": YES, "helpfulness": 0.5}
    assert read_examples(jsonl(row), RewardForm("auto", "helpfulness")) == [{"messages": ASK + YES, "score": 0.5}]
    assert read_examples(jsonl({"text": "ab", "score": -1}), form) == [{"text": "ab", "score": -1.0}]


@pytest.mark.parametrize("score", ["NaN", '"5"', "true", "null", "Infinity"])
def test_a_score_is_a_finite_number(jsonl: Callable[..., str], score: str) -> None:
    with pytest.raises(StageError, match=r"line 1: column 'score' holds .*, not a finite number"):
        read_examples(jsonl(f'{{"text": "a", "score": {score}}}'), ScoreForm())


# ---------------------------------------------------------------------------- real data


@pytest.mark.real_data
def test_real_data_of_every_form_is_read(data_dir: Path, hh_rlhf: Path, tinystories: Path) -> None:
    assert len(read_examples(str(tinystories), CompletionForm())) == 928
    assert len(read_examples(str(hh_rlhf), CompletionForm("hh"), on_malformed="skip")) == 2308
    pairs = read_examples(str(data_dir / "dpo-en-demo" / "pairs.jsonl.gz"), PairForm())
    assert len(pairs) == 300 and all(isinstance(pair["prompt"], list) for pair in pairs)
    sums = read_examples(str(data_dir / "gsm8k" / "test.jsonl.gz"), CompletionForm(as_chat=True))
    assert len(sums) == 1319 and "####" in sums[0]["completion"][0]["content"]

"""Prompts: rows from files, folders and datasets, rules that cut prompts, and what does not fit."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from datasets import Dataset, DatasetDict

from mx_trl.errors import StageError
from mx_trl.models import load_tokenizer
from mx_trl.prompts import encode, fitting_prompts, hh_messages, hh_prompt, read_prompts

DIALOGUE = "\n\nHuman: Hi there\n\nAssistant: Hello.\n\nHuman: Who are you?\n\nAssistant: A program."


def jsonl(path: Path, rows: list[Any]) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return str(path)


# ---------------------------------------------------------------------------- sources


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_prompts_are_read_from_json_lines_plain_or_gzipped(tmp_path: Path, name: str) -> None:
    assert read_prompts(jsonl(tmp_path / name, [{"prompt": "one"}, {"prompt": "two"}])) == ["one", "two"]


def test_prompts_are_read_from_a_saved_dataset_and_from_a_folder_of_files(tmp_path: Path) -> None:
    data = Dataset.from_dict({"question": ["one", "two"]})
    data.save_to_disk(str(tmp_path / "saved"))
    DatasetDict({"test": data}).save_to_disk(str(tmp_path / "splits"))
    (tmp_path / "files").mkdir()
    jsonl(tmp_path / "files" / "train.jsonl", [{"question": "one"}, {"question": "two"}])
    for folder, split in (("saved", "train"), ("splits", "test"), ("files", "train")):
        assert read_prompts(str(tmp_path / folder), "question", split=split) == ["one", "two"]


def test_the_limit_counts_distinct_prompts_in_order(tmp_path: Path) -> None:
    rows = [{"prompt": text} for text in ("b", "b", "a", "c")]
    assert read_prompts(jsonl(tmp_path / "rows.jsonl", rows), limit=2) == ["b", "a"]


def test_a_missing_column_names_the_columns_that_exist(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"question": "one", "answer": "two"}])
    with pytest.raises(StageError, match=r"line 1: no column 'prompt'; columns: question, answer"):
        read_prompts(path)


def test_a_bad_line_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "one"}\n{"prompt": \n', encoding="utf-8")
    with pytest.raises(StageError, match=r"rows\.jsonl, line 2: not JSON"):
        read_prompts(str(path))


@pytest.mark.parametrize(("rows", "message"), [([], "has no rows"), ([["a"]], "expected a JSON object, found list")])
def test_no_rows_or_rows_of_another_kind_are_refused(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(StageError, match=message):
        read_prompts(jsonl(tmp_path / "rows.jsonl", rows))


@pytest.mark.parametrize("value", [None, 7, ""])
def test_a_value_that_is_no_prompt_is_shown(tmp_path: Path, value: object) -> None:
    with pytest.raises(StageError, match=f"line 2: column 'prompt' holds {value!r}, not text"):
        read_prompts(jsonl(tmp_path / "rows.jsonl", [{"prompt": "good"}, {"prompt": value}]))


def test_a_missing_file_an_unknown_split_and_an_unknown_dataset_are_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"dataset file .*none\.jsonl does not exist"):
        read_prompts(str(tmp_path / "none.jsonl"))
    DatasetDict({"test": Dataset.from_dict({"prompt": ["one"]})}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(StageError, match=r"no split 'tests': did you mean 'test'"):
        read_prompts(str(tmp_path / "splits"), split="tests")
    with pytest.raises(StageError, match="cannot load hub dataset 'nobody/nothing'"):
        read_prompts("nobody/nothing")


def test_a_truncated_gzip_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = Path(jsonl(tmp_path / "rows.jsonl.gz", [{"prompt": str(i)} for i in range(999)]))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(StageError, match=r"cannot read dataset .*rows\.jsonl\.gz"):
        read_prompts(str(path))


# ---------------------------------------------------------------------------- rules


def test_the_hh_rule_ends_with_the_assistants_last_opening() -> None:
    assert hh_prompt(DIALOGUE) == "\n\nHuman: Hi there\n\nAssistant: Hello.\n\nHuman: Who are you?\n\nAssistant:"


def test_the_hh_chat_rule_gives_the_turns_without_the_last_answer() -> None:
    assert hh_messages(DIALOGUE) == [
        {"role": "user", "content": "Hi there"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Who are you?"},
    ]


def test_a_dialogue_without_an_assistant_does_not_fit_the_rule(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"chosen": "just text"}])
    with pytest.raises(StageError, match="line 1: column 'chosen' does not fit the rule"):
        read_prompts(path, "hh")


def test_the_story_rule_takes_the_first_words(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"text": "One  day, Tom\nwent out."}])
    assert read_prompts(path, "story", words=3) == ["One day, Tom"]


@pytest.mark.real_data
def test_real_hh_dialogues_end_where_the_assistant_speaks_next(hh_rlhf: Path) -> None:
    text, chat = (read_prompts(str(hh_rlhf), rule) for rule in ("hh", "hh_chat"))
    assert len(text) > 2000 and len(chat) > 2000
    assert all(isinstance(p, str) and p.endswith("\n\nAssistant:") and p.startswith("\n\nHuman:") for p in text)
    for messages in chat:
        roles = [turn["role"] for turn in messages]  # type: ignore[index]
        assert roles == [("user", "assistant")[i % 2] for i in range(len(roles))] and roles[-1] == "user"


@pytest.mark.real_data
def test_real_stories_give_prompts_that_begin_their_story(tinystories: Path) -> None:
    first = read_prompts(str(tinystories), "story", words=8, limit=1)[0]
    assert len(str(first).split()) == 8


# ---------------------------------------------------------------------------- tokens


@pytest.mark.real_data
def test_chat_messages_go_through_the_chat_template(smollm2_gguf: Path) -> None:
    tokenizer = load_tokenizer(str(smollm2_gguf))
    ids = encode([{"role": "user", "content": "Hi"}], tokenizer)
    assert tokenizer.decode(ids).endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.real_data
def test_messages_without_a_chat_template_are_refused_with_the_remedy(stories260k: Path) -> None:
    with pytest.raises(StageError, match=r"no chat template.*--prompt_from hh"):
        encode([{"role": "user", "content": "Hi"}], load_tokenizer(str(stories260k)))


@pytest.mark.real_data
def test_long_prompts_are_left_out_and_if_none_fits_the_shortest_is_named(
    stories260k: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load_tokenizer(str(stories260k))
    prompts, tokens = fitting_prompts(["a b c d e f g h", "a"], tokenizer, 4)
    assert prompts == ["a"] and len(tokens) == 1
    assert "1 of 2 prompts are longer than 4 tokens" in caplog.text
    with pytest.raises(StageError, match=r"all 1 prompts are longer than 4 tokens \(the shortest has \d+\)"):
        fitting_prompts(["a b c d e f g h"], tokenizer, 4)

"""Rows that do not fit: named by file and line, counted, fatal by default."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("trl")

from mx_trl.data.completions import CompletionForm
from mx_trl.data.examples import read_examples
from mx_trl.data.malformed import Malformed
from mx_trl.data.preferences import PairForm
from mx_trl.errors import StageError
from mx_trl.prompts import read_prompts

GOOD = {"document": "one", "target": "two"}


def test_each_bad_line_is_named_with_its_number_and_all_are_counted(jsonl: Callable[..., str]) -> None:
    path = jsonl(GOOD, '{"document": ', "", GOOD, '["a"]', {"document": "one"}, {"document": "one", "target": 7})
    with pytest.raises(StageError) as caught:
        read_examples(path, CompletionForm())
    lines = str(caught.value).splitlines()
    assert lines[0] == f"4 of 6 rows of {path} are malformed:"
    assert lines[1].startswith(f"  {path}, line 2: not JSON")
    assert lines[2] == f"  {path}, line 5: expected a JSON object, found list"
    assert lines[3] == f"  {path}, line 6: no column 'target'; columns: document"
    assert lines[4] == f"  {path}, line 7: column 'target' holds 7, not text or a list of messages"
    assert lines[-1].endswith("leave them out by --on_malformed skip")


def test_skip_leaves_them_out_and_says_so(jsonl: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    path = jsonl(GOOD, "nonsense", {"document": "a", "target": ""}, GOOD)
    with caplog.at_level(logging.WARNING):
        assert len(read_examples(path, CompletionForm(), on_malformed="skip")) == 2
    assert f"2 of 4 rows of {path} are malformed" in caplog.text and "line 2: not JSON" in caplog.text


def test_no_more_than_ten_are_shown_and_the_rest_counted(jsonl: Callable[..., str]) -> None:
    path = jsonl(GOOD, *["nonsense"] * 25)
    with pytest.raises(StageError, match=r"25 of 26 rows(.|\n)*line 11: (.|\n)*\.\.\. and 15 more") as caught:
        read_examples(path, CompletionForm())
    assert "line 12" not in str(caught.value)


def test_what_lies_behind_the_limit_is_not_read(jsonl: Callable[..., str]) -> None:
    assert len(read_examples(jsonl(GOOD, GOOD, "nonsense"), CompletionForm(), limit=2)) == 2


def test_prompts_of_ppo_are_read_the_same_way(jsonl: Callable[..., str]) -> None:
    path = jsonl({"prompt": "one"}, "nonsense", {"prompt": ""}, {"prompt": "two"})
    with pytest.raises(StageError, match=r"2 of 4 rows of (.|\n)*line 2: not JSON(.|\n)*line 3: column 'prompt'"):
        read_prompts(path)
    assert read_prompts(path, on_malformed="skip") == ["one", "two"]


def test_bytes_that_are_no_utf8_are_a_malformed_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "good"}\n{"text": "\xff"}\n')
    with pytest.raises(StageError, match=r"line 2: not UTF-8 \(byte 11\)"):
        read_examples(str(path), CompletionForm())


def test_a_gzipped_file_is_read_and_a_truncated_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(f'{{"text": "line {i}"}}\n' for i in range(999))
    assert len(read_examples(str(path), CompletionForm())) == 999
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(StageError, match=r"cannot read dataset .*rows\.jsonl\.gz"):
        read_examples(str(path), CompletionForm(), on_malformed="skip")


def test_a_row_of_a_data_set_that_is_no_file_is_named_by_its_number(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_dict({"text": ["good", ""]}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(StageError, match=r"saved, row 2: column 'text' holds '', not text"):
        read_examples(str(tmp_path / "saved"), CompletionForm())


def test_no_examples_and_another_choice_are_refused(jsonl: Callable[..., str]) -> None:
    with pytest.raises(StageError, match="has no examples to learn from"):
        read_examples(jsonl(), CompletionForm())
    with pytest.raises(StageError, match="on_malformed='ignore' is not a choice: fatal or skip"):
        Malformed("ignore")


@pytest.mark.real_data
def test_the_real_pairs_have_four_whose_chosen_answer_is_empty(hh_rlhf: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StageError, match=r"4 of 2312 rows(.|\n)*line 87: chosen holds no answer"):
        read_examples(str(hh_rlhf), PairForm())
    assert len(read_examples(str(hh_rlhf), PairForm("hh_chat"), on_malformed="skip")) == 2308

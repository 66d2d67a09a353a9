"""The run folder: nothing the user had is lost, and what was written stays readable."""

from __future__ import annotations

import csv
import errno
import json
import logging
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mx_plugin import plugins
from mx_plugin.errors import LedgerError
from mx_plugin.ledger import COLUMNS, METRICS, EnergyRow, RunFolder


def row(step: int, joules: float | None = None) -> EnergyRow:
    return EnergyRow(step, "rollout", "all", "all", seconds=0.5, joules=joules, source="m")


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def steps(path: Path) -> list[int]:
    return [int(record["step"]) for record in read_csv(path)]


class Disk:
    """``os.write`` onto a disk with ``free`` bytes: writes a part, then fails as a full disk does."""

    def __init__(self, free: int = 10**9) -> None:
        self.free = free

    def __call__(self, fd: int, data: bytes) -> int:
        if not self.free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(fd, data[: self.free])
        self.free -= written
        return written


def test_a_new_folder_holds_the_files_with_their_headers(tmp_path):
    folder = RunFolder(tmp_path / "deep" / "runs", "C")
    folder.write_config({"seed": 1})
    folder.close()
    assert folder.path == tmp_path / "deep" / "runs" / "policy_C"
    assert sorted(p.name for p in folder.path.iterdir()) == [
        "config.json",
        "energy.csv",
        "metrics.csv",
        "metrics.jsonl",
        "training_log.txt",
    ]
    assert (folder.path / "energy.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert (folder.path / "metrics.csv").read_text().startswith(",".join(METRICS) + ",")
    assert METRICS == ("step", "reward", "kl", "entropy", "ratio", "clip_fraction", "mismatch")


def test_rows_are_on_disk_as_soon_as_they_are_written(tmp_path):
    folder = RunFolder(tmp_path, "C")
    folder.write_energy([row(1, joules=2.5), row(2)])
    back = [EnergyRow.from_csv(record) for record in read_csv(folder.path / "energy.csv")]
    assert back == [row(1, joules=2.5), row(2)]
    folder.close()


def test_a_metric_that_is_unknown_is_empty_and_one_without_a_column_goes_to_the_log_only(tmp_path):
    folder = RunFolder(tmp_path, "C")
    folder.write_metrics(4, {"reward": torch.tensor(0.5), "kl": None, "entropy": float("nan"), "loss/policy": 3.0})
    folder.write_log({"step": 4, "loss/policy": 3.0})
    folder.close()
    (record,) = read_csv(folder.path / "metrics.csv")
    assert (record["step"], record["reward"], record["kl"], record["entropy"]) == ("4", "0.5", "", "nan")
    assert "loss/policy" not in record
    assert json.loads((folder.path / "metrics.jsonl").read_text()) == {"step": 4, "loss/policy": 3.0}


def test_nan_and_infinities_are_null_in_json_lines_and_scalars_of_other_libraries_are_numbers(tmp_path):
    folder = RunFolder(tmp_path, "C")
    folder.write_log(
        {
            "step": 1,
            "nan": math.nan,
            "inf": -math.inf,
            "np": np.float32(0.5),
            "torch": torch.tensor(3),
            "torch nan": torch.tensor(float("nan")),
            "nested": {"list": [1, math.nan]},
            "path": Path("a"),
            "line": "two\nlines\u2028",
        }
    )
    folder.close()
    text = (folder.path / "metrics.jsonl").read_text(encoding="utf-8")
    assert text.count("\n") == 1
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")) == {
        "step": 1,
        "nan": None,
        "inf": None,
        "np": 0.5,
        "torch": 3,
        "torch nan": None,
        "nested": {"list": [1, None]},
        "path": "a",
        "line": "two\nlines\u2028",
    }


def test_what_the_projects_loggers_say_stands_in_the_training_log_with_a_time(tmp_path):
    logging.getLogger("mx_trl").setLevel(logging.NOTSET)
    folder = RunFolder(tmp_path, "C")
    logging.getLogger("mx_trl.callback").info("phase %s", "rollout")
    logging.getLogger("mx_plugin.execution").warning("careful")
    logging.getLogger("somebody.else").warning("not ours")
    folder.note("by hand")
    folder.close()
    logging.getLogger("mx_trl").warning("after the run")
    lines = (folder.path / "training_log.txt").read_text().splitlines()
    assert [line.partition(" INFO ")[2] or line.partition(" WARNING ")[2] for line in lines] == [
        "mx_trl.callback: phase rollout",
        "mx_plugin.execution: careful",
        "mx_plugin.run: by hand",
    ]
    assert all(line[:4].isdigit() for line in lines)


def test_what_a_plugins_loggers_say_stands_there_too(tmp_path):
    """Also that of a plugin which is no module, by the package of its class."""

    class Acme:
        __module__ = "acme.plugin"
        MX_PLUGIN_INTERFACE = (1, 0)

    plugins.register(Acme(), "acme")
    try:
        folder = RunFolder(tmp_path, "C")
        logging.getLogger("acme.board").info("the board was given up")
        logging.getLogger("mx_cpu.library").warning("no AVX")
        folder.close()
    finally:
        plugins.reset()
    logging.getLogger("acme.board").warning("after the run")
    text = (folder.path / "training_log.txt").read_text()
    assert "INFO acme.board: the board was given up" in text and "WARNING mx_cpu.library: no AVX" in text
    assert "after the run" not in text and logging.getLogger("acme").level == logging.NOTSET
    assert logging.getLogger("mx_trl").level == logging.NOTSET


def test_characters_that_do_not_belong_in_a_folder_name_are_replaced(tmp_path):
    folder = RunFolder(tmp_path, "my policies/x y.yaml")
    folder.close()
    assert folder.path.name == "policy_my_policies_x_y.yaml"


def test_an_earlier_run_is_kept_under_the_next_free_number(tmp_path):
    for expected in (None, "policy_C.1", "policy_C.2"):
        folder = RunFolder(tmp_path, "C")
        assert (folder.renamed_to.name if folder.renamed_to else None) == expected
        folder.write_energy([row(1)])
        folder.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["policy_C", "policy_C.1", "policy_C.2"]
    assert all(steps(p / "energy.csv") == [1] for p in tmp_path.iterdir())
    assert "policy_C.2" in (tmp_path / "policy_C" / "training_log.txt").read_text()


def test_an_empty_folder_is_used_as_it_is(tmp_path):
    (tmp_path / "policy_C").mkdir()
    folder = RunFolder(tmp_path, "C")
    folder.close()
    assert folder.renamed_to is None


def test_resuming_appends_after_dropping_the_rows_of_later_steps(tmp_path):
    folder = RunFolder(tmp_path, "C")
    folder.write_config({"seed": 1})
    for step in (1, 2, 3, 4):
        folder.write_energy([row(step)])
        folder.write_metrics(step, {"reward": step / 10})
        folder.write_log({"step": step})
    folder.write_log({"note": "without a step"})
    folder.close()

    folder = RunFolder(tmp_path, "C", resume_step=2)
    folder.write_config({"seed": 2})
    folder.write_energy([row(3, joules=9.0)])
    folder.write_metrics(3, {"reward": 9.0})
    folder.close()
    assert folder.renamed_to is None
    assert steps(folder.path / "energy.csv") == [1, 2, 3]
    assert [(r["step"], r["reward"]) for r in read_csv(folder.path / "metrics.csv")] == [
        ("1", "0.1"),
        ("2", "0.2"),
        ("3", "9.0"),
    ]
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1}, {"step": 2}, {"note": "without a step"}]
    assert json.loads((folder.path / "config.json").read_text()) == {"seed": 2}
    assert json.loads((folder.path / "config.json.1").read_text()) == {"seed": 1}


def test_a_resumed_run_keeps_the_earlier_configuration_once_however_often_it_writes_its_own(tmp_path):
    folder = RunFolder(tmp_path, "C")
    folder.write_config({"seed": 1, "hits": {}})
    folder.close()
    folder = RunFolder(tmp_path, "C", resume_step=2)
    folder.write_config({"seed": 2, "hits": {}})
    folder.write_config({"seed": 2, "hits": {"policy": 3}})
    folder.close()
    assert sorted(path.name for path in folder.path.glob("config.json*")) == ["config.json", "config.json.1"]
    assert json.loads((folder.path / "config.json.1").read_text()) == {"seed": 1, "hits": {}}
    assert json.loads((folder.path / "config.json").read_text()) == {"seed": 2, "hits": {"policy": 3}}


def test_resuming_drops_a_last_line_that_a_crash_cut_short(tmp_path):
    folder = RunFolder(tmp_path, "C")
    folder.write_energy([row(1)])
    folder.write_log({"step": 1})
    folder.close()
    for name, part in (("energy.csv", "2,roll"), ("metrics.jsonl", '{"step": 2, "x')):
        with open(folder.path / name, "a", encoding="utf-8") as file:
            file.write(part)
    folder = RunFolder(tmp_path, "C", resume_step=5)
    folder.write_energy([row(6)])
    folder.close()
    assert steps(folder.path / "energy.csv") == [1, 6]
    assert (folder.path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_resuming_with_other_metric_columns_loses_none(tmp_path):
    folder = RunFolder(tmp_path, "C", extra_metrics=("old",))
    folder.write_metrics(1, {"old": 1.5, "reward": 2.0})
    folder.close()
    folder = RunFolder(tmp_path, "C", resume_step=1, extra_metrics=("new",))
    folder.write_metrics(2, {"old": 3.5, "new": 4.5})
    folder.close()
    assert folder.metrics_columns == (*METRICS, "new", "old")
    one, two = read_csv(folder.path / "metrics.csv")
    assert (one["reward"], one["old"], one["new"]) == ("2.0", "1.5", "")
    assert (two["reward"], two["old"], two["new"]) == ("", "3.5", "4.5")


def test_resuming_where_there_is_no_run_starts_one(tmp_path):
    folder = RunFolder(tmp_path, "C", resume_step=7)
    folder.write_energy([row(8)])
    folder.close()
    assert steps(folder.path / "energy.csv") == [8]


@pytest.mark.parametrize(("name", "text"), [("energy.csv", "a,b\n1,2\n"), ("metrics.jsonl", "[1]\n")])
def test_resuming_onto_files_that_are_no_run_is_refused_and_leaves_them_alone(tmp_path, name, text):
    file = tmp_path / "policy_C" / name
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(LedgerError, match=name):
        RunFolder(tmp_path, "C", resume_step=1)
    assert file.read_text() == text


def test_a_damaged_row_in_the_middle_is_named_by_its_line(tmp_path):
    folder = RunFolder(tmp_path, "C")
    folder.write_energy([row(1), row(2)])
    folder.close()
    file = folder.path / "energy.csv"
    file.write_text(file.read_text().replace("1,rollout", "one,rollout"))
    with pytest.raises(LedgerError, match=r"energy\.csv line 2"):
        RunFolder(tmp_path, "C", resume_step=2)


def test_a_folder_name_taken_by_a_file_is_refused_with_path_and_remedy(tmp_path):
    (tmp_path / "policy_C").write_text("mine")
    with pytest.raises(LedgerError, match=r"policy_C exists and is not a folder; choose another output_dir"):
        RunFolder(tmp_path, "C")
    assert (tmp_path / "policy_C").read_text() == "mine"


def test_an_output_dir_that_is_a_file_is_refused_with_path_and_remedy(tmp_path):
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(LedgerError, match=r"cannot write the run folder .*runs.*choose another output_dir"):
        RunFolder(tmp_path / "runs", "C")


def test_a_disk_that_is_full_from_the_start_is_refused_before_training(tmp_path):
    with pytest.raises(LedgerError, match="No space left on device"):
        RunFolder(tmp_path, "C", write=Disk(free=0))
    assert logging.getLogger("mx_plugin").handlers == []


def test_a_disk_that_fills_up_leaves_whole_rows_and_warns_once(tmp_path, caplog):
    disk = Disk()
    folder = RunFolder(tmp_path, "C", write=disk)
    folder.write_energy([row(1)])
    disk.free = 20
    with caplog.at_level(logging.WARNING, logger="mx_plugin"):
        folder.write_energy([row(2), row(3)])
        folder.write_metrics(3, {"reward": 1.0})
        assert not folder.flush()
    assert steps(folder.path / "energy.csv") == [1]
    assert (folder.path / "energy.csv").read_text().endswith("\n")
    assert len([r for r in caplog.records if "rows wait in memory" in r.getMessage()]) == 1

    with pytest.raises(LedgerError) as raised:
        folder.close()
    assert "2 rows of energy.csv" in str(raised.value) and "1 rows of metrics.csv" in str(raised.value)
    assert "No space left on device" in str(raised.value)
    folder.close()


def test_rows_that_waited_are_written_in_order_when_there_is_room_again(tmp_path):
    disk = Disk()
    folder = RunFolder(tmp_path, "C", write=disk)
    disk.free = len("1,rollout,all,all,,0.5,,,,m,\n") + 5
    folder.write_energy([row(1), row(2)])
    assert steps(folder.path / "energy.csv") == [1]
    disk.free = 10**6
    folder.write_energy([row(3)])
    assert steps(folder.path / "energy.csv") == [1, 2, 3]
    folder.close()


def test_a_configuration_that_cannot_be_written_leaves_the_old_one(tmp_path):
    folder = RunFolder(tmp_path, "C")
    folder.write_config({"seed": 1})
    (folder.path / f".config.json.{os.getpid()}.tmp").mkdir()
    with pytest.raises(LedgerError, match=r"config\.json"):
        folder.write_config({"seed": 2})
    folder.close()
    assert json.loads((folder.path / "config.json").read_text()) == {"seed": 1}

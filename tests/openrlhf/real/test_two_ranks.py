"""train_sft on one rank and on two with the same global batch: the work of all ranks is in one file."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.openrlhf.recipes import Run, command_line

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def trained(folder: Path, ranks: int, model: Path, table: Path) -> Run:
    flags = ["--model.model_name_or_path", str(model), "--data.dataset", str(table), "--data.output_key", "output"]
    flags += ["--adam.lr", "1e-3", "--data.max_len", "64"]
    command, environment = command_line("train_sft", folder, flags, "B")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    ran = subprocess.run(
        [*launcher, *command[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    return Run(folder, ran.returncode, ran.stdout + ran.stderr)


def macs(run: Run) -> Counter[tuple[str, str, str]]:
    total: Counter[tuple[str, str, str]] = Counter()
    with (run.files / "energy.csv").open() as file:
        for row in csv.DictReader(file):
            total[row["phase"], row["role"], row["format"]] += int(row["macs"] or 0)
    return total


def test_two_ranks_book_the_work_of_both(folder: Path, model: Path, data: dict[str, Path]) -> None:
    one = trained(folder / "one_rank", 1, model, data["sft"])
    two = trained(folder / "two_ranks", 2, model, data["sft"])
    for run, ranks in ((one, 1), (two, 2)):
        assert run.status == 0, run.output[-5000:]
        assert json.loads((run.files / "config.json").read_text())["world_size"] == ranks
    # All rows of sft.jsonl are equally long, so no rank pads more than another.
    assert macs(one) == macs(two) and macs(two)["gradient", "policy", "MXFP8/MXFP8"] > 0

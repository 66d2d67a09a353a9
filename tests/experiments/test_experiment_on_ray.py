"""A whole experiment by both executors: the same numbers and the same weights."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytest.importorskip("trl")

from mx_plugin.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.trl]


def numbers(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(encoding="utf-8") as lines:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(lines)]


def test_both_executors_train_the_same_models(tmp_path: Path) -> None:
    words = ["experiment", "--policies", "A", "C", "--num_steps", "2", "--threads", "1", "--no_evaluate"]
    for executor in ("local", "ray"):
        assert main([*words, "--executor", executor, "--output", str(tmp_path / executor)]) == 0
    for policy in ("A", "C"):
        here, there = (tmp_path / executor / "runs" / policy / "seed_1" for executor in ("local", "ray"))
        assert numbers(here) == numbers(there) != []
        assert (here / "model/model.safetensors").read_bytes() == (there / "model/model.safetensors").read_bytes()

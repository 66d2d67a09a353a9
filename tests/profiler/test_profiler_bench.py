"""``mx-plugin bench profiler``: what it measures, its arithmetic, and what it refuses."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("trl")

from mx_plugin import plugins
from mx_plugin.bench import Bench, Effort
from mx_plugin.errors import MXError
from mx_trl.bench import profiler
from tests.trl.trainers import Workshop

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder


def bench_with(rounds: int) -> Bench:
    arguments = argparse.Namespace(profiler_rounds=rounds)
    return Bench(arguments, "cpu", Effort(0.0), 1e9, rotated_bytes=1, report=lambda text: None)


def test_it_is_registered_with_its_option() -> None:
    parser = argparse.ArgumentParser()
    add_arguments = plugins.benches()["profiler"].add_arguments
    assert add_arguments is not None
    add_arguments(parser)
    assert vars(parser.parse_args([])) == {"profiler_rounds": 10}


def test_it_refuses_to_measure_nothing() -> None:
    with pytest.raises(MXError, match="--profiler-rounds 0: at least one round"):
        list(profiler.profiler_rows(bench_with(0)))


def test_every_step_but_the_first_and_the_profiled_one_is_measured(
    embedded: EmbeddedFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiler, "STEPS", 4)
    trainer = Workshop(embedded, tmp_path).trainer("sft", max_steps=4)
    callbacks = list(trainer.callback_handler.callbacks)
    now = iter(range(1000))
    taken = profiler._measured(trainer, tmp_path, 2, lambda: next(now))
    assert taken == {"plain": [1, 1] * 2, "profiled": [1, 1] * 2}
    assert trainer.callback_handler.callbacks == callbacks
    assert capsys.readouterr().out == ""


def test_rows_compare_medians() -> None:
    plain, profiled = profiler._rows("SFT", {"plain": [1.0, 2.0, 9.0], "profiled": [2.5, 1.0, 2.02]})
    assert (plain.seconds, plain.ratio, plain.target) == (2.0, 1.0, None)
    assert (profiled.seconds, profiled.ratio, profiled.target) == (2.02, 2.0 / 2.02, 0.99)
    assert re.search(r"\+20000 us a step, \+1\.00%", profiled.note)
    assert profiled.met


@pytest.mark.slow
def test_the_bench_measures_both_stages() -> None:
    rows = list(profiler.profiler_rows(bench_with(1)))
    assert [row.case for row in rows] == ["SFT, embedded model"] * 2 + ["GRPO, embedded model"] * 2
    assert all(row.note.startswith("8 steps") for row in rows)

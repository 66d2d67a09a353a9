"""A PPO run under the profiler, with MX beside it: seconds, ranges, formats and files are those of the run."""

from __future__ import annotations

import csv
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("trl")

from mx_trl import MXCallback, MXProfilerCallback
from mx_trl.observer import Observer
from mx_trl.profiler.labels import layers_of
from mx_trl.profiler.rows import ProfileRow, read_rows

from .traces import Range, load, overlaps, phase_track, tracks

pytestmark = pytest.mark.trl("<1.13")
ROLES = ("policy", "value", "reference", "reward")
SLACK = 50.0
"""Microseconds between our clock and torch's, on a machine that does other things as well."""


class Profiled(NamedTuple):
    folder: Path
    rows: list[ProfileRow]
    energy: list[dict[str, str]]
    seconds: float
    events: list[dict[str, Any]]
    trainer: Any


class Watch(Observer):
    """Takes the time of all that the profiler, entered after it, could see."""

    seconds = 0.0

    @contextmanager
    def observing(self, trainer: Any) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds = time.perf_counter() - began


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Profiled]:
    """Filled by the first test that asks: fixtures that make trainers live no longer than a test."""
    return {}


@pytest.fixture
def profiled(
    run: dict[str, Profiled], make_ppo: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Profiled:
    """Three steps under policy C8, of which the second is profiled."""
    if not run:
        folder = tmp_path_factory.mktemp("profiled")
        watch, profiler = Watch(), MXProfilerCallback((0, 1, 1, 1))
        trainer = make_ppo(
            folder, [watch, profiler, MXCallback(policy="C8", output_dir=folder)], steps=3, response_length=4
        )
        trainer.train()
        assert profiler.profile_dir == folder / "policy_C8" / "profile"
        with (folder / "policy_C8" / "energy.csv").open(newline="") as lines:
            energy = list(csv.DictReader(lines))
        rows = list(read_rows(profiler.profile_dir / "profile.csv"))
        events = load(profiler.profile_dir / "trace_step2.json.gz")
        run["C8"] = Profiled(profiler.profile_dir, rows, energy, watch.seconds, events, trainer)
    return run["C8"]


def sums(pairs: Any) -> dict[str, float]:
    totals: dict[str, float] = defaultdict(float)
    for phase, seconds in pairs:
        totals[phase] += seconds
    return dict(totals)


def test_phase_seconds_agree_with_the_ledgers_and_partition_training(profiled: Profiled) -> None:
    ours = sums((row.phase, row.seconds) for row in profiled.rows if row.is_phase)
    ledger = sums((row["phase"], float(row["seconds"])) for row in profiled.energy if row["seconds"])
    assert ours.keys() == ledger.keys() == {"rollout", "reward", "gradient", "other"}
    for phase in ("rollout", "reward", "gradient"):
        # Two clocks, read one after the other: other processes may run in between, 10 ms a step as below.
        assert ours[phase] == pytest.approx(ledger[phase], rel=0.02, abs=0.03), phase
    assert sum(ours.values()) == pytest.approx(sum(ledger.values()), rel=0.02)
    assert sum(ours.values()) <= profiled.seconds
    assert sum(ours.values()) == pytest.approx(profiled.seconds, rel=0.1)


def test_seconds_of_a_step_agree_with_the_ledgers(profiled: Profiled) -> None:
    for step in range(1, 4):
        ours = sums((row.phase, row.seconds) for row in profiled.rows if row.is_phase and row.step == step)
        ledger = {r["phase"]: float(r["seconds"]) for r in profiled.energy if r["seconds"] and int(r["step"]) == step}
        for phase in ("rollout", "reward", "gradient"):
            assert ours[phase] == pytest.approx(ledger[phase], rel=0.05, abs=0.01), (step, phase)


def test_every_step_has_its_phases_and_only_profiled_ones_have_layers(profiled: Profiled) -> None:
    assert {row.step for row in profiled.rows if row.is_phase} >= {1, 2, 3}
    assert {row.step for row in profiled.rows if not row.is_phase} == {2}
    assert {row.step for row in profiled.rows if row.profiled} == {2}
    assert all(row.resident_peak is None or row.resident_peak > 2**20 for row in profiled.rows if row.is_phase)


def test_layers_tell_their_format_in_each_phase(profiled: Profiled) -> None:
    found: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for row in profiled.rows:
        if row.layer.endswith(("q_proj", "norm")):
            found[row.phase, row.role, row.layer.rpartition(".")[2]].add(row.format)
    assert found["rollout", "policy", "q_proj"] == {"MXFP8/MXFP8"}
    assert found["rollout", "policy", "norm"] == {"FP16[float32]"}
    assert found["reward", "reference", "q_proj"] == {"MXFP8/MXFP8"}
    assert found["gradient", "policy", "q_proj"] == {"FP16[float32]"}
    assert found["gradient", "value", "q_proj"] == {"FP16[float32]"}


def test_backward_reaches_each_layer_as_often_as_forward(profiled: Profiled) -> None:
    calls: dict[tuple[str, str, str], int] = {}
    for row in profiled.rows:
        if row.phase == "gradient" and not row.is_phase:
            calls[row.role, row.layer, row.direction] = row.calls or 0
    forward = {(role, layer): n for (role, layer, direction), n in calls.items() if direction == "forward"}
    backward = {(role, layer): n for (role, layer, direction), n in calls.items() if direction == "backward"}
    assert forward == backward
    assert {role for role, _ in forward} == {"policy", "value"}
    assert set(forward.values()) == {4}  # two epochs of two micro-batches


def test_layers_take_no_longer_than_their_phase(profiled: Profiled) -> None:
    phases = sums((row.phase, row.seconds) for row in profiled.rows if row.is_phase and row.profiled)
    layers = sums((row.phase, row.seconds) for row in profiled.rows if not row.is_phase)
    for phase, seconds in layers.items():
        assert 0 < seconds <= phases[phase], phase


# ---------------------------------------------------------------------------- the trace


def test_ranges_of_the_trace_nest_on_every_track(profiled: Profiled) -> None:
    found = tracks(profiled.events)
    assert sum(map(len, found.values())) > 1000
    for track, ranges in found.items():
        assert overlaps(ranges) == [], track


def test_the_trace_holds_our_phases_without_a_gap(profiled: Profiled) -> None:
    step, *phases = phase_track(profiled.events)
    assert step.name == "step 2"
    assert [p.name for p in phases if p.name != "other"] == ["rollout", "reward", "gradient"]
    assert (phases[0].start, phases[-1].end) == pytest.approx((step.start, step.end), abs=0.01)
    for earlier, later in pairwise(phases):
        assert earlier.end == pytest.approx(later.start, abs=0.01)
    rows = {row.phase: row.seconds for row in profiled.rows if row.is_phase and row.step == 2}
    for name in ("rollout", "reward", "gradient"):
        length = sum(p.end - p.start for p in phases if p.name == name) / 1e6
        assert length == pytest.approx(rows[name], rel=0.01), name


def test_every_layers_range_lies_in_the_phase_that_its_row_names(profiled: Profiled) -> None:
    events = profiled.events
    phases = phase_track(events)[1:]
    layers = [
        r for ranges in tracks(events).values() for r in ranges if ":" in r.name and r.name.partition(":")[0] in ROLES
    ]

    def phase_of(one: Range) -> str:
        (held,) = {p.name for p in phases if p.start - SLACK <= one.start and one.end <= p.end + SLACK}
        return held

    seen = {(phase_of(one), *one.name.removesuffix(" backward").split(":")) for one in layers}
    rows = {(row.phase, row.role, row.layer, row.format) for row in profiled.rows if not row.is_phase}
    assert seen == rows
    assert len(layers) > 500


# ---------------------------------------------------------------------------- the other files


def test_the_flame_graph_is_whole_and_loads_nothing(profiled: Profiled) -> None:
    html = (profiled.folder / "flame.html").read_text(encoding="utf-8")
    assert html.lstrip().lower().startswith("<!doctype html>") and html.rstrip().endswith("</html>")
    assert "default-src 'none'" in html
    assert set(re.findall(r"https?://[\w.-]+", html)) <= {"http://www.w3.org"}  # the name of SVG's elements
    speedscope = json.loads((profiled.folder / "flame.speedscope.json").read_text(encoding="utf-8"))
    assert speedscope["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    names = {frame["name"] for frame in speedscope["shared"]["frames"]}
    assert names & {"generate", "backward", "forward", "_wrapped_call_impl"}


def test_the_summary_holds_the_sums_of_the_rows(profiled: Profiled) -> None:
    summary = json.loads((profiled.folder / "profile.json").read_text(encoding="utf-8"))
    assert summary["windows"] == [{"first_step": 2, "last_step": 2, "complete": True, "trace": "trace_step2.json.gz"}]
    assert summary["profiled_steps"] == [2] and summary["troubles"] == []
    for phase in summary["phases"]:
        rows = [row for row in profiled.rows if row.is_phase and row.phase == phase["phase"]]
        assert phase["seconds"] == pytest.approx(sum(row.seconds for row in rows))
        assert phase["profiled_seconds"] == pytest.approx(sum(row.seconds for row in rows if row.step == 2))
        assert phase["resident_peak"] == max((row.resident_peak for row in rows if row.resident_peak), default=None)
    layers = sum(layer["seconds"] for layer in summary["layers"])
    assert layers == pytest.approx(sum(row.seconds for row in profiled.rows if not row.is_phase))


def test_no_hook_is_left_behind(profiled: Profiled) -> None:
    trainer = profiled.trainer
    for model in (trainer.model, trainer.ref_model, trainer.reward_model):
        for layer in layers_of({"any": model}):  # transformers keeps hooks of its own, but on no layer
            assert not layer.module._forward_hooks and not layer.module._forward_pre_hooks

"""The profile of a run in the report: what the map shows adds up, and a run without MX has a page too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mx_plugin.report.collect import collect
from mx_plugin.report.page import page
from mx_plugin.report.profile import OUTSIDE, profile_figures

EVIL = "x<img src=x onerror=alert(1)>"


def phase(name: str, seconds: float, **further: Any) -> dict[str, Any]:
    return {
        "phase": name, "seconds": 10 * seconds, "profiled_seconds": seconds, "resident_peak": 2**30, "cuda_peak": None,
        **further,
    }  # fmt: skip


def layer(where: str, role: str, name: str, fmt: str, seconds: float, direction: str = "forward") -> dict[str, Any]:
    return {
        "phase": where, "role": role, "layer": name, "format": fmt, "direction": direction, "calls": 1,
        "seconds": seconds,
    }  # fmt: skip


PROFILE: dict[str, Any] = {
    "version": 1,
    "profiled_steps": [3, 4],
    "windows": [],
    "phases": [phase("other", 0.5), phase("rollout", 3.0), phase("gradient", 2.0, cuda_peak=2**31)],
    "layers": [
        layer("rollout", "policy", "layers.0.q_proj", "MXFP4/MXFP8", 1.5),
        layer("rollout", "policy", "layers.1.q_proj", "MXFP4/MXFP8", 0.5),
        layer("gradient", "policy", "layers.0.q_proj", "FP16[float32]", 0.25),
        layer("gradient", "policy", "layers.0.q_proj", "FP16[float32]", 0.75, "backward"),
        layer("gradient", "value", EVIL, "FP16[float32]", 0.5),
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run without MX: its stage's config.json, and a profile."""
    (tmp_path / "run" / "profile").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text('{"stage": "SFT"}')
    (tmp_path / "run" / "profile" / "profile.json").write_text(json.dumps(PROFILE))
    return tmp_path / "run"


def test_the_map_holds_every_second_of_the_profiled_steps(folder: Path) -> None:
    figure = next(figure for figure in profile_figures(collect(folder)) if figure.key == "profile-0-map")
    (trace,) = figure.data
    values = dict(zip(trace["ids"], trace["values"], strict=True))
    assert sum(values.values()) == pytest.approx(5.5)
    assert values["gradient|policy|FP16[float32]|layers.0.q_proj"] == pytest.approx(1.0)
    assert values[f"rollout|{OUTSIDE}"] == pytest.approx(1.0)
    assert values[f"gradient|{OUTSIDE}"] == pytest.approx(0.5)
    assert values["rollout"] == values["rollout|policy"] == 0  # branches add up what is in them
    assert set(trace["parents"]) - {""} <= set(trace["ids"])
    assert "steps 3, 4" in figure.note


def test_seconds_by_format_and_memory_are_those_of_the_file(folder: Path) -> None:
    found = {figure.key: figure for figure in profile_figures(collect(folder))}
    formats = {bar["name"]: dict(zip(bar["y"], bar["x"], strict=True)) for bar in found["profile-0-formats"].data}
    assert formats["MXFP4/MXFP8"] == {"rollout": pytest.approx(2.0), "gradient": None, "other": None}
    assert formats["FP16[float32]"]["gradient"] == pytest.approx(1.5)
    memory = {bar["name"]: dict(zip(bar["y"], bar["x"], strict=True)) for bar in found["profile-0-memory"].data}
    assert memory["resident set"]["rollout"] == pytest.approx(1.0)
    assert memory["CUDA allocator"] == {"other": None, "rollout": None, "gradient": pytest.approx(2.0)}


def test_every_figure_is_valid_plotly(folder: Path) -> None:
    objects = pytest.importorskip("plotly.graph_objects", reason="pip install 'mx-plugin[report]'")
    figures = profile_figures(collect(folder))
    assert len(figures) == 3
    for figure in figures:
        objects.Figure({"data": figure.data, "layout": figure.layout})
        assert figure.points > 0
        json.dumps([figure.data, figure.layout], allow_nan=False)


def test_a_run_without_mx_has_a_page_without_complaints(folder: Path) -> None:
    pytest.importorskip("plotly", reason="pip install 'mx-plugin[report]'")
    data = collect(folder)
    assert data.troubles == []
    text = page(data)
    assert "Where the time went" in text and "<img" not in text.split("<script>/**")[0]


def test_a_folder_that_holds_a_profile_alone_is_a_run(folder: Path) -> None:
    (folder / "config.json").unlink()
    data = collect(folder)
    assert [run.profile["profiled_steps"] for run in data.runs] == [[3, 4]] and data.troubles == []


def test_a_torn_profile_is_named_and_the_rest_is_shown(folder: Path) -> None:
    (folder / "profile" / "profile.json").write_text("{")
    data = collect(folder)
    assert any("profile.json" in trouble for trouble in data.troubles)
    assert profile_figures(data) == []


def test_a_profile_without_profiled_steps_has_its_memory_alone(folder: Path) -> None:
    file = folder / "profile" / "profile.json"
    file.write_text(json.dumps(PROFILE | {"layers": [], "profiled_steps": []}))
    assert [figure.key for figure in profile_figures(collect(folder))] == ["profile-0-memory"]

"""Stability panels: what files say is what is drawn, alerts marked and listed, and names are only ever text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mx_plugin.errors import MXError
from mx_plugin.report.collect import collect, collect_stability
from mx_plugin.report.page import page
from mx_plugin.report.stability import alert_table, stability_figures
from mx_plugin.report.stability_page import write_stability_page
from tests.report.browser import HOW, Browser, find

pytest.importorskip("plotly", reason="plotly draws the page: pip install 'mx-plugin[report]'")

EVIL = "<img src=x onerror=alert(1)>"


def write_run(folder: Path, steps: int = 8, rule: str = EVIL) -> Path:
    folder.mkdir(parents=True)
    records = [
        {"step": s, "time": 1e9, "reward": s / 8, "entropy": None if s == 4 else 2.0 - s / 8, "kl_per_token": s * s / 4,
         "grad_norm/policy": 1.0 + s % 2, "grad_norm/value": 2.0, "drift/policy/model.layers.0": s / 100,
         "format/rollout/MXFP4": 1.0} | ({"not_finite": ["entropy"]} if s == 4 else {})
        for s in range(1, steps + 1)
    ]  # fmt: skip
    alerts = [
        {"step": 6, "rule": rule, "metric": "kl_per_token", "severity": "error", "message": f"{EVIL} is above",
         "value": 9.0, "bound": 2.0, "action": ["log", "mark"], "time": 1e9},
        {"step": 4, "rule": "nan", "metric": "entropy", "severity": "error", "message": "entropy is NaN or infinite",
         "value": None, "bound": None, "action": ["log", "mark"], "time": 1e9},
        {"step": 7, "rule": "quiet", "metric": "reward", "severity": "info", "message": "said only", "value": 0.9,
         "bound": 0.1, "action": ["log"], "time": 1e9},
    ]  # fmt: skip
    for name, lines in (("stability.jsonl", records), ("alerts.jsonl", alerts)):
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def test_every_finite_number_is_a_point_and_every_marked_alert_a_mark(tmp_path: Path) -> None:
    data = collect_stability(write_run(tmp_path / "run"))
    assert data.troubles == []
    figures = {figure.key: figure for figure in stability_figures(data, {"run": "#123456"})}
    assert set(figures) == {
        "stability-reward", "stability-entropy", "stability-kl_per_token", "stability-grad_norm", "stability-drift",
        "stability-format",
    }  # fmt: skip
    assert [len(figures[f"stability-{key}"].data) for key in ("reward", "kl_per_token", "grad_norm")] == [1, 2, 2]
    line, mark = figures["stability-kl_per_token"].data
    assert line["y"] == [s * s / 4 for s in range(1, 9)]
    assert (mark["x"], mark["y"], mark["marker"]["symbol"]) == ([6], [9.0], "triangle-down")
    assert len(figures["stability-entropy"].data[0]["x"]) == 7
    for figure in figures.values():  # a line across each plot where something was marked, nothing where it was not
        assert sorted(shape["x0"] for shape in figure.layout["shapes"]) == [4, 6]


def test_several_runs_are_told_apart_and_those_set_aside_left_out(tmp_path: Path) -> None:
    for name in ("a/policy_A", "a/policy_C", "a/policy_A.1"):
        write_run(tmp_path / name)
    data = collect_stability(tmp_path)
    assert [run.name for run in data.runs] == ["a/policy_A", "a/policy_C"]
    write_run(tmp_path / "b" / "lr_0.5")
    assert [run.name for run in collect_stability(tmp_path / "b").runs] == ["lr_0.5"]
    figures = stability_figures(data, {run.name: f"#00000{n}" for n, run in enumerate(data.runs)})
    norms = next(figure for figure in figures if figure.key == "stability-grad_norm")
    assert [trace["name"] for trace in norms.data] == [
        "a/policy_A policy", "a/policy_A value", "a/policy_C policy", "a/policy_C value"
    ]  # fmt: skip
    assert {(trace["line"]["color"], trace["line"]["dash"]) for trace in norms.data} == {
        ("#000000", "solid"), ("#000000", "dash"), ("#000001", "solid"), ("#000001", "dash")
    }  # fmt: skip


def test_a_torn_last_line_is_no_trouble_and_a_broken_one_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with (run / "stability.jsonl").open("a") as file:
        file.write('{"step": 9, "rew')
    assert collect_stability(run).troubles == []
    with (run / "stability.jsonl").open("a") as file:
        file.write('\n{"step": 10, "reward": 1}\n')
    data = collect_stability(run)
    assert len(data.troubles) == 1 and "line 9" in data.troubles[0]
    assert data.runs[0].stability["reward"][-1] == (10, 1.0)


def test_a_folder_without_a_record_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(MXError, match="--stability"):
        collect_stability(tmp_path)


def test_without_alerts_the_table_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "alerts.jsonl").unlink()
    assert alert_table(collect_stability(run)) == "<p>No alert.</p>"


def test_the_report_of_an_mx_run_has_the_panels(tmp_path: Path) -> None:
    run = write_run(tmp_path / "policy_C")
    (run / "config.json").write_text("{}")
    (run / "energy.csv").write_text("step,phase,role,format,dtype,seconds,macs,bytes,joules,source,estimated\n")
    data = collect(run)
    assert len(data.runs[0].alerts) == 3 and len(data.runs[0].stability["reward"]) == 8
    assert "stability-kl_per_token" in page(data)


@pytest.mark.skipif(find() is None, reason=HOW)
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_the_page_shows_them_in_a_browser(tmp_path: Path, width: int, scheme: str) -> None:
    write_run(tmp_path / "runs" / "one")
    write_run(tmp_path / "runs" / "two")
    written = write_stability_page(tmp_path / "runs", tmp_path / "page.html")
    with Browser(tmp_path / "profile") as browser:
        browser.look(width, scheme=scheme)
        browser.open(written)
        assert browser.complaints == []
        assert browser.value("document.documentElement.scrollWidth") <= width
        drawn = "document.querySelectorAll('#stability-kl_per_token .scatterlayer .point').length"
        assert browser.value(drawn) == 2 * 8 + 2  # eight points a run, few enough to be shown, and its mark
        assert browser.value("document.querySelectorAll('#stability-reward .shapelayer path').length") == 2
        assert browser.value("document.querySelectorAll('table.alerts tbody tr').length") == 6
        assert EVIL in browser.value("document.querySelector('table.alerts').innerText")
        assert browser.value("document.querySelectorAll('img').length") == 0

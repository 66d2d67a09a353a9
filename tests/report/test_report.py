"""What the report reads, counts and says, without a browser."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import pytest

from mx_plugin.cli import main
from mx_plugin.errors import MXError
from mx_plugin.interfaces import Work
from mx_plugin.ledger.modelled import ModelledMeter
from mx_plugin.report.collect import collect
from mx_plugin.report.costs import energy_ratios, joules_measured, mean_modelled, seconds
from mx_plugin.report.curves import curve_figures
from mx_plugin.report.energy import Modelled, modelled, ratio_bounds
from mx_plugin.report.format_map import format_maps
from mx_plugin.report.page import page
from mx_plugin.report.pareto import pareto_figures
from mx_plugin.report.phases import phase_figures
from mx_plugin.report.quality import quality
from mx_plugin.report.theme import format_colour, run_colours
from tests.evaluation.synthetic import Drawn, write_results

RUNS = {"A": Drawn(0.5, seconds=80, policy="A"), "C": Drawn(0.46, seconds=55)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_results(tmp_path / "results", RUNS, seeds=(1, 2), prompts=20, steps=4)
    return tmp_path / "results"


def test_the_command_writes_one_file_that_asks_nothing_of_the_network(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("plotly", reason="pip install 'mx-plugin[report]'")
    assert main(["report", str(folder)]) == 0
    file = Path(capsys.readouterr().out.strip())
    assert file == folder / "report.html"
    ours = re.sub(r"<script>/\*\*.*?</script>", "", file.read_text(), flags=re.S)  # plotly's own text names its home
    assert {target[:5] for target in re.findall(r"""(?:src|href)=["'](.*?)["']""", ours)} <= {
        "data:", "#verd", "#pare", "#cost", "#form", "#phas", "#curv", "#envi"
    }  # fmt: skip
    assert "url(" not in ours and "@import" not in ours and "default-src 'none'" in ours


def test_every_figure_is_valid_plotly(folder: Path) -> None:
    objects = pytest.importorskip("plotly.graph_objects", reason="pip install 'mx-plugin[report]'")
    data = collect(folder)
    colours = run_colours(data.by_name())
    figures = [*pareto_figures(data, quality(data), colours), *format_maps(data), *phase_figures(data)]
    figures += curve_figures(data, colours)
    assert len(figures) > 8
    for figure in figures:
        objects.Figure({"data": figure.data, "layout": figure.layout})  # raises for what plotly does not know
        assert figure.points > 0
        json.dumps([figure.data, figure.layout], allow_nan=False)


def test_seconds_and_measured_joules_are_sums_of_the_files(tmp_path: Path) -> None:
    write_results(tmp_path, {"A": Drawn(0.5, seconds=80, joules=30.0)}, seeds=(1, 2), prompts=5)
    data = collect(tmp_path)
    assert seconds(data)["A"].value == pytest.approx(80)
    assert joules_measured(data)["zeus:cpu"]["A"].value == pytest.approx(2400)


def test_modelled_energy_is_taken_apart_into_the_tables_operations(folder: Path) -> None:
    run = next(run for run in collect(folder).runs if run.name == "C")
    found = modelled(run.energy, run.config)["modelled:as-executed"]
    meter = ModelledMeter()
    total = [0.0, 0.0, 0.0]
    for row in run.energy:
        if row.source == "modelled:as-executed":
            casts = 0 if row.format == "FP16" else 10**6
            work = Work(
                row.role, row.format, row.dtype, row.macs or 0, weight_bytes=row.bytes or 0, cast_elements=casts
            )
            bounds = meter.bounds(work)
            assert bounds is not None
            total = [a + b for a, b in zip(total, bounds, strict=True)]
    assert found.why == ""
    assert found.joules == pytest.approx(total[1])
    assert found.bounds == pytest.approx((total[0], total[2]), rel=1e-5)


def test_the_ratios_range_is_that_of_all_energies_and_not_of_both_errors_apart() -> None:
    wide, narrow = ("mac", (1.0, 2.0, 4.0)), ("byte", (10.0, 20.0, 30.0))
    run, baseline = Modelled("m", 0.0, {wide: 3.0, narrow: 1.0}), Modelled("m", 0.0, {wide: 1.0, narrow: 1.0})
    found = ratio_bounds(run, baseline)
    tried = [
        (3 * a + b) / (a + b)
        for a, b in product([1 + 3 * i / 50 for i in range(51)], [10 + 20 * i / 50 for i in range(51)])
    ]
    assert found == pytest.approx((min(tried), max(tried)))
    assert ratio_bounds(run, run) == (1.0, 1.0)


def test_a_run_priced_by_another_table_has_no_range_and_says_so(folder: Path) -> None:
    file = folder / "runs/C/seed_1/energy.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(re.sub(r",0\.\d+,modelled", ",1e-9,modelled", line) for line in lines) + "\n")
    data = collect(folder)
    mean = mean_modelled(data.by_name()["C"])["modelled:as-executed"]
    assert mean.bounds is None and "not the table that the run was priced by" in mean.why
    assert energy_ratios(data)["modelled:as-executed"]["C"][1] is None
    assert "range unknown" in page(data)


def test_unknown_joules_are_left_out_and_never_counted_as_nothing(folder: Path) -> None:
    file = folder / "runs/C/seed_1/energy.csv"
    text = file.read_text()
    first = next(line for line in text.splitlines() if "modelled" in line)
    file.write_text(text.replace(first, re.sub(r",[^,]*,modelled", ",,modelled", first), 1))
    data = collect(folder)
    assert mean_modelled(data.by_name()["C"]) == {}
    assert "pareto-seconds" in {figure.key for figure in pareto_figures(data, quality(data), run_colours(["A", "C"]))}


def test_a_single_run_folder_and_one_of_policies_are_reported_by_training_reward(folder: Path, tmp_path: Path) -> None:
    one = collect(folder / "runs/C/seed_1")
    found = quality(one)
    assert found is not None and found.title == "training reward" and "not a judgement" in found.note
    both = tmp_path / "output"
    for name in ("A", "C"):
        (folder / f"runs/{name}/seed_1").rename(both / f"policy_{name}") if both.mkdir(exist_ok=True) is None else None
    (both / "config.json").write_text('{"stage": "PPO"}')  # a stage's options, which are no run of a policy
    data = collect(both)
    assert [run.name for run in data.runs] == ["A", "C"] and data.comparison is None
    text = page(data)
    assert "Quality against measured seconds" in text and "id='verdicts'" not in text


def test_without_evaluations_the_reason_stands_on_the_page(tmp_path: Path) -> None:
    write_results(tmp_path, RUNS, seeds=(1,), prompts=5, evaluated=lambda name, seed: False)
    text = page(collect(tmp_path))
    assert "the baseline A has not been evaluated" in text and "training reward" in text


def test_names_are_escaped_wherever_they_stand(tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    write_results(tmp_path, {"A": Drawn(0.5), evil.replace("/", "_"): Drawn(0.4)}, prompts=5, seeds=(1, 2))
    ours = page(collect(tmp_path))
    assert "<img" not in ours.replace(_plotlyjs(), "")


def _plotlyjs() -> str:
    return str(pytest.importorskip("plotly.offline", reason="pip install 'mx-plugin[report]'").get_plotlyjs())


def test_torn_files_are_named_and_the_rest_is_shown(folder: Path) -> None:
    file = folder / "runs/C/seed_1/energy.csv"
    file.write_text(file.read_text()[:-50])
    (folder / "runs/C/seed_2/config.json").write_text("{")
    data = collect(folder)
    told = "\n".join(data.troubles)
    assert "runs/C/seed_1/energy.csv, line" in told and "runs/C/seed_2/config.json" in told
    assert "runs/C/seed_2/config.json" in page(data)


def test_a_run_that_is_not_finished_is_left_out_and_named(folder: Path) -> None:
    (folder / "runs/C/seed_2/done.json").unlink()
    data = collect(folder)
    assert [str(run.path.name) for run in data.by_name()["C"]] == ["seed_1"]
    assert any("C seed 2 is not finished" in trouble for trouble in data.troubles)


def test_folders_with_nothing_to_report_say_what_is_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MXError, match="is not a folder"):
        collect(tmp_path / "none")
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no finished run" in capsys.readouterr().err


def test_narrow_formats_are_warm_and_unquantised_is_grey() -> None:
    assert format_colour("MXFP4/MXFP8") == format_colour("MXFP4") != format_colour("MXFP8/MXFP8")
    assert format_colour("FP16[float32]") == format_colour("FP16/MXFP8") == "#9aa0a6"
    assert format_colour("forward MXFP6/MXFP8, dgrad FP16, wgrad FP16") == format_colour("MXFP6")


def test_long_models_are_mapped_in_rows_that_agree(folder: Path) -> None:
    file = folder / "runs/C/seed_1/config.json"
    config = json.loads(file.read_text())
    layers = {f"model.layers.{i}.mlp.up_proj": "MXFP4/MXFP8" if i < 90 else "FP16" for i in range(100)}
    config["formats"] = {"policy": {"rollout": layers}}
    file.write_text(json.dumps(config))
    figure = format_maps(collect(folder))[1]
    assert figure.data[0]["y"] == ["0.mlp.up_proj … 89.mlp.up_proj (90)", "90.mlp.up_proj … 99.mlp.up_proj (10)"]
    assert "share a row" in figure.note

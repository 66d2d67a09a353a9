"""The figures of docs/sensitivity.md, its picture and the example policy are those of the matrix beside them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mx_plugin.precision import PrecisionPolicy, SensitivityMatrix
from mx_plugin.precision.matrix_file import read_rows
from mx_plugin.precision.search import Bytes, search, shapes_of
from mx_plugin.report.heatmap import heatmap

ROOT = Path(__file__).parents[3]
MATRIX = ROOT / "docs" / "data" / "stories15m_sensitivity.csv"
GRADIENT = MATRIX.with_name("stories15m_gradient.csv")
PAGE = (ROOT / "docs" / "sensitivity.md").read_text(encoding="utf-8")


def cells(title: str) -> list[float]:
    """The numbers of the table's row that begins so."""
    line = next(line for line in PAGE.splitlines() if line.replace("*", "").startswith(f"| {title} |"))
    return [float(cell) for cell in line.replace("*", "").split("|")[2:-1]]


def test_the_tables_averages_are_the_matrixs() -> None:
    rows = [row for row in read_rows(MATRIX) if row.metric == "kl"]
    for column, fmt in enumerate(("MXFP4", "MXFP6", "MXFP8")):
        alone = {row.layer: row.cost for row in rows if row.format == fmt}
        trunk = [cost for layer, cost in alone.items() if layer != "lm_head"]
        assert len(alone) == 43
        assert cells("mean of 43 layers, each alone")[column] == pytest.approx(sum(alone.values()) / 43, abs=5.1e-6)
        assert cells("the same without lm_head")[column] == pytest.approx(sum(trunk) / 42, abs=5.1e-6)
        assert cells("sum of layers alone")[column] == pytest.approx(sum(alone.values()), rel=5e-3)
        assert max(alone, key=alone.__getitem__) == "lm_head"
    facts = json.loads(MATRIX.with_suffix(".json").read_text(encoding="utf-8"))
    assert cells("all layers at once") == pytest.approx([whole["cost"] for whole in facts["whole"]], rel=5e-3)
    (found,) = (each for each in facts["rank_correlation"] if each["metric"] == "kl")
    ranks = cells("fast engine, rank correlation over layers")
    assert ranks == pytest.approx([*found["by_format"].values()], abs=5.1e-3)
    assert f"rank correlation is {found['all_formats']:.2f}" in PAGE


def test_gradient_errors_add_in_quadrature_and_cosines_plainly() -> None:
    rows = read_rows(GRADIENT)
    facts = json.loads(GRADIENT.with_suffix(".json").read_text(encoding="utf-8"))
    for column, fmt in enumerate(("MXFP4", "MXFP8")):
        error = [row.cost for row in rows if (row.metric, row.format) == ("gradient_error", fmt)]
        cosine = [row.cost for row in rows if (row.metric, row.format) == ("gradient_cosine", fmt)]
        whole = {each["metric"]: each["cost"] for each in facts["whole"] if each["format"] == fmt}
        assert len(error) == len(cosine) == 42
        assert cells("error: mean of 42 layers, each alone")[column] == pytest.approx(sum(error) / 42, rel=5e-3)
        assert cells("error: sum of layers alone")[column] == pytest.approx(sum(error), rel=5e-3)
        quadrature = math.sqrt(sum(cost**2 for cost in error))
        assert cells("error: root of the sum of squares")[column] == pytest.approx(quadrature, rel=5e-3)
        assert cells("error: all layers at once")[column] == pytest.approx(whole["gradient_error"], rel=5e-3)
        assert cells("1 − cosine: sum of layers alone")[column] == pytest.approx(sum(cosine), rel=5e-3)
        assert cells("1 − cosine: all layers at once")[column] == pytest.approx(whole["gradient_cosine"], rel=5e-3)


def test_the_example_policy_is_what_the_search_finds() -> None:
    pytest.importorskip("scipy")
    matrix = SensitivityMatrix.read(MATRIX)
    found = search(matrix, {"rollout": 0.0165}, Bytes(), shapes_of(matrix)).policy("stories15m_d")
    example = PrecisionPolicy.from_yaml(ROOT / "examples" / "policies" / "stories15m_d.yaml")
    layers = dict.fromkeys(row.layer for row in matrix.rows)
    assert len(layers) == 43
    for layer in layers:
        head = layer == "lm_head"
        assert example.resolve(layer, "rollout", is_lm_head=head) == found.resolve(layer, "rollout", is_lm_head=head)


def test_the_picture_is_the_matrixs() -> None:
    drawn = (ROOT / "docs" / "sensitivity.svg").read_text(encoding="utf-8")
    both = SensitivityMatrix.read(MATRIX).rows + SensitivityMatrix.read(GRADIENT).rows
    assert drawn == heatmap(SensitivityMatrix(both))
    assert len(drawn) < 200_000

"""The heat-map says what the matrix says: one cell a cost, in order, shaded by its size, in one file."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from mx_plugin.cli.main import main
from mx_plugin.errors import MXError
from mx_plugin.precision.matrix import MatrixRow, SensitivityMatrix
from mx_plugin.report.heatmap import heatmap, panels, write_heatmap

SVG = "{http://www.w3.org/2000/svg}"

ROWS = (
    MatrixRow("model.layers.0.up", "rollout", "policy", "MXFP8", 0.001, "kl", "nats/token"),
    MatrixRow("model.layers.0.up", "rollout", "policy", "MXFP4", 0.01, "kl", "nats/token"),
    MatrixRow("model.layers.1.up<&>", "rollout", "policy", "MXFP8", 0.0, "kl", "nats/token"),
    MatrixRow("model.layers.1.up<&>", "rollout", "policy", "MXFP4", math.inf, "kl", "nats/token"),
    MatrixRow("lm_head", "rollout", "policy", "MXFP4", 0.1, "kl", "nats/token"),
    MatrixRow("model.layers.0.up", "gradient", "policy", "MXFP4", 0.3, "gradient_error", "relative"),
)


def cells(svg: str) -> dict[str, str]:
    """What a cell's tip says -> its colour."""
    root = ET.fromstring(svg)
    boxes = [box for box in root.iter(f"{SVG}rect") if box.find(f"{SVG}title") is not None]
    return {box.find(f"{SVG}title").text: box.get("fill") for box in boxes}  # type: ignore[union-attr, misc]


def luma(colour: str) -> float:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_each_cost_stands_in_its_cell_and_darker_is_more() -> None:
    found = cells(heatmap(SensitivityMatrix(ROWS)))
    assert len(found) == 3 * 2 + 3 * 1
    eight = found["model.layers.0.up, rollout / policy, MXFP8: 0.001 (kl, nats/token)"]
    four = found["model.layers.0.up, rollout / policy, MXFP4: 0.01 (kl, nats/token)"]
    head = found["lm_head, rollout / policy, MXFP4: 0.1 (kl, nats/token)"]
    assert luma(eight) > luma(four) > luma(head)
    assert "lm_head, rollout / policy, MXFP8: not profiled" in found
    assert any(tip.endswith("inf (kl, nats/token)") for tip in found)


def test_panels_keep_units_apart_and_scales_are_logarithmic() -> None:
    rollout, gradient = panels(SensitivityMatrix(ROWS))
    assert (rollout.title, rollout.unit, gradient.unit) == (
        "rollout / policy", "kl, nats/token", "gradient_error, relative"
    )  # fmt: skip
    assert rollout.formats == ("MXFP4", "MXFP8")
    assert rollout.ends == (0.001, 0.1)
    assert [rollout.shade(cost) for cost in (0.0, 0.001, 0.01, 0.1)] == pytest.approx([0, 0, 0.5, 1])
    assert gradient.shade(0.3) == 0.0


def test_layers_stand_in_order_under_names_that_fit(tmp_path: Path) -> None:
    texts = [t.text for t in ET.fromstring(heatmap(SensitivityMatrix(ROWS))).iter(f"{SVG}text")]
    names = [text for text in texts if text in ("0.up", "1.up<&>", "lm_head")]
    assert names == ["0.up", "1.up<&>", "lm_head"]


def test_the_page_needs_nothing_from_anywhere_else(tmp_path: Path) -> None:
    path = write_heatmap(tmp_path / "map.html", SensitivityMatrix(ROWS))
    page = path.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=|url\(""", page)
    assert re.findall(r"https?://[^\"]+", page) == ["http://www.w3.org/2000/svg"]


def test_the_command_draws_a_file_and_refuses_what_it_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = tmp_path / "m.csv"
    matrix.write_text("layer,phase,format,cost,unit\nblocks.0.up,rollout,MXFP4,0.012,nats/token\n")
    assert main(["policy", "heatmap", str(matrix), str(tmp_path / "m.svg")]) == 0
    assert "blocks.0.up, rollout / policy, MXFP4: 0.012" in (tmp_path / "m.svg").read_text(encoding="utf-8")
    other = tmp_path / "n.csv"
    other.write_text("layer,phase,format,cost,unit\nblocks.0.up,gradient,MXFP4,0.3,relative\n")
    assert main(["policy", "heatmap", str(matrix), str(other), str(tmp_path / "both.svg")]) == 0
    assert "blocks.0.up, gradient / policy, MXFP4: 0.3" in (tmp_path / "both.svg").read_text(encoding="utf-8")
    assert main(["policy", "heatmap", str(matrix), str(matrix), str(tmp_path / "both.svg")]) == 2
    assert main(["policy", "heatmap", str(matrix), str(tmp_path / "m.png")]) == 2
    assert "the ending '.png' cannot be drawn; give .svg or .html" in capsys.readouterr().err
    with pytest.raises(MXError, match="does not exist; make it first"):
        write_heatmap(tmp_path / "nowhere" / "m.svg", SensitivityMatrix(ROWS))

"""The columns of a sensitivity matrix that describe its layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mx_plugin.errors import MatrixError
from mx_plugin.precision import SensitivityMatrix


def test_columns_that_describe_the_layers_are_read_and_written(tmp_path: Path) -> None:
    text = (
        "layer,phase,role,format,cost,metric,unit,in_features,out_features,dtype\n"
        "h.0,rollout,policy,MXFP4,0.5,kl,nats,64,96,bfloat16\n"
        "h.1,rollout,policy,MXFP4,0.5,kl,nats,,,\n"
    )
    path = tmp_path / "m.csv"
    path.write_text(text, encoding="utf-8")
    matrix = SensitivityMatrix.read(path)
    first, second = matrix.rows
    assert (first.in_features, first.out_features, first.dtype) == (64, 96, "bfloat16")
    assert (second.in_features, second.out_features, second.dtype) == (None, None, "")
    matrix.write(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("wide,96,bfloat16",), r"m\.csv:2: in_features 'wide' is not a whole number"),
        (("64,0,bfloat16",), r"m\.csv:2: out_features is 0"),
        (("64,96,bfloat16", "64,32,bfloat16"), r"out_features of layer 'h\.0', role policy, is 32 in one row and 96"),
        (("64,96,bfloat16", "64,96,float32"), "dtype of layer 'h.0', role policy, is 'float32' in one row"),
    ],
)
def test_descriptions_that_cannot_be_are_refused(tmp_path: Path, columns: tuple[str, ...], message: str) -> None:
    lines = ["layer,phase,format,cost,in_features,out_features,dtype"]
    lines += [f"h.0,rollout,{fmt},0.5,{rest}" for fmt, rest in zip(("MXFP4", "MXFP8"), columns, strict=False)]
    (tmp_path / "m.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(MatrixError, match=message):
        SensitivityMatrix.read(tmp_path / "m.csv")

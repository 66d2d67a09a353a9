"""Several metrics in one sensitivity matrix, and the columns that describe its layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mx_plugin.errors import MatrixError
from mx_plugin.precision import MatrixRow, SensitivityMatrix
from mx_plugin.precision.metric_choice import one_metric


def row(metric: str, cost: float, layer: str = "h.0", fmt: str = "MXFP4", phase: str = "rollout") -> MatrixRow:
    return MatrixRow(layer, phase, "policy", fmt, cost, metric, "nats")


def costs(matrix: SensitivityMatrix) -> list[float]:
    return [row.cost for row in matrix.rows]


ALONE_AND_OTHERS = SensitivityMatrix((row("kl", 1.0), row("kl:others", 2.0), row("kl", 3.0, layer="h.1")), "made here")


def test_quantising_a_layer_alone_is_what_counts() -> None:
    assert costs(one_metric(ALONE_AND_OTHERS)) == [1.0, 3.0]
    (h0, h1) = ALONE_AND_OTHERS.choose(1.5)
    assert (h0.format, h1.format) == ("MXFP4", "FP16")


def test_a_metric_that_is_named_counts() -> None:
    assert costs(one_metric(ALONE_AND_OTHERS, {"rollout": "kl:others"})) == [2.0]
    assert costs(one_metric(ALONE_AND_OTHERS, {"rollout": "kl:others", "rollout/policy": "kl"})) == [1.0, 3.0]


def test_two_metrics_of_quantising_alone_are_refused_until_one_is_chosen() -> None:
    matrix = SensitivityMatrix((row("score_error", 1.0), row("rank_loss", 2.0)), "made here")
    with pytest.raises(
        MatrixError, match="made here: rollout/policy has several metrics, score_error, rank_loss, .*choose one"
    ):
        matrix.choose(1.5)
    assert costs(one_metric(matrix, {"rollout": "rank_loss"})) == [2.0]


def test_a_lone_qualified_metric_is_the_metric() -> None:
    assert costs(one_metric(SensitivityMatrix((row("error:forward", 1.0),)))) == [1.0]
    with pytest.raises(MatrixError, match="several metrics, error:forward, error:others"):
        one_metric(SensitivityMatrix((row("error:forward", 1.0), row("error:others", 1.0))))


def test_a_choice_that_the_matrix_does_not_hold_names_the_nearest() -> None:
    with pytest.raises(MatrixError, match="has no metric 'kl:other': did you mean 'kl:others'"):
        one_metric(ALONE_AND_OTHERS, {"rollout": "kl:other"})
    with pytest.raises(MatrixError, match="chosen for 'rolout', .*did you mean 'rollout'"):
        one_metric(ALONE_AND_OTHERS, {"rolout": "kl"})


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

"""The sensitivity matrix: reading and writing CSV, and choosing by cost without mixing units."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mx_plugin.errors import MatrixError, PolicyError
from mx_plugin.precision import PHASES, ROLES, MatrixRow, PrecisionPolicy, SensitivityMatrix
from mx_plugin.precision.patterns import is_glob

HEADER = "layer,phase,role,format,cost,metric,unit"


def read(tmp_path: Path, *lines: str, header: str = HEADER) -> SensitivityMatrix:
    path = tmp_path / "matrix.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return SensitivityMatrix.read(path)


def row(
    layer: str, fmt: str, cost: float, phase: str = "rollout", role: str = "policy", unit: str = "nats"
) -> MatrixRow:
    return MatrixRow(layer, phase, role, fmt, cost, "kl", unit)


def matrix(*rows: MatrixRow) -> SensitivityMatrix:
    return SensitivityMatrix(rows, "made here")


def chosen(m: SensitivityMatrix, max_cost: object) -> dict[tuple[str, str, str], str]:
    return {(c.layer, c.phase, c.role): c.format for c in m.choose(max_cost)}  # type: ignore[arg-type]


# ---------------------------------------------------------------------------- reading


def test_all_seven_columns_are_read(tmp_path: Path) -> None:
    m = read(tmp_path, "h.0.attn,gradient,value,mxfp8_e4m3/mxfp4,2.5e-3,delta_nll,nats")
    assert m.rows == (MatrixRow("h.0.attn", "gradient", "value", "MXFP8/MXFP4", 0.0025, "delta_nll", "nats"),)


def test_the_four_column_form_speaks_about_the_role_policy(tmp_path: Path) -> None:
    m = read(tmp_path, "h.0.attn,rollout,MXFP4,0.5", header="layer,phase,format,cost")
    assert m.rows == (MatrixRow("h.0.attn", "rollout", "policy", "MXFP4", 0.5, "cost", ""),)


def test_columns_may_come_in_any_order_and_case_with_blanks_quotes_and_blank_lines(tmp_path: Path) -> None:
    m = read(tmp_path, "", '0.5, MXFP4 , "rollout",h.0.attn', "", header="Cost, FORMAT ,phase,layer")
    assert m.rows == (MatrixRow("h.0.attn", "rollout", "policy", "MXFP4", 0.5),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("h.0,rollout,policy,MXFP4,0.5,kl", "6 fields where the header has 7"),
        ("h.0,rollout,policy,MXFP4,0,5,kl,nats", "8 fields where the header has 7"),
        ("h.0,rollout,policy,MXFP4,much,kl,nats", "cost 'much' is not a number"),
        ("h.0,rollout,policy,MXFP4,,kl,nats", "cost '' is not a number"),
        ("h.0,rollout,policy,MXFP4,nan,kl,nats", "cost is nan"),
        ("h.0,rollout,policy,MXFP4,-0.1,kl,nats", "cost is -0.1"),
        ("h.0,rolout,policy,MXFP4,0.5,kl,nats", "unknown phase 'rolout': did you mean 'rollout'?"),
        ("h.0,rollout,polcy,MXFP4,0.5,kl,nats", "unknown role 'polcy': did you mean 'policy'?"),
        ("h.0,rollout,policy,MXPF4,0.5,kl,nats", "unknown format 'MXPF4': did you mean 'MXFP4'?"),
        ("h.0,rollout,policy,MXFP4/X/Y,0.5,kl,nats", "is not a pair"),
        (",rollout,policy,MXFP4,0.5,kl,nats", "layer is ''"),
        ("h.*,rollout,policy,MXFP4,0.5,kl,nats", "not a pattern"),
        ("h.1,rollout,policy,mxfp4_e2m1,0.7,kl,nats", "a second cost of MXFP4"),
        ('"h.0,rollout,policy,MXFP4,0.5,kl,nats', "not valid CSV"),
        ('h.0,rollout,policy,MXFP4,0.5,"k\nl",nats', "metric is 'k\\nl', which holds a line break"),
    ],
)
def test_a_faulty_row_names_the_file_the_line_and_the_fault(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(MatrixError) as caught:
        read(tmp_path, "h.1,rollout,policy,MXFP4,0.5,kl,nats", "", line, "h.2,rollout,policy,MXFP4,0.5,kl,nats")
    assert str(caught.value).startswith(f"{tmp_path / 'matrix.csv'}:4: ")
    assert message in str(caught.value)


def test_lines_are_counted_across_quoted_line_breaks(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match=r"matrix\.csv:4: cost 'x'"):
        read(tmp_path, 'h.0,rollout,policy,"MXFP4\n",0.5,kl,nats', "h.1,rollout,policy,MXFP4,x,kl,nats")


def test_a_duplicate_says_where_the_first_is(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match=r"matrix\.csv:3: .*the first is on line 2"):
        read(tmp_path, "h.0,rollout,policy,MXFP4,0.5,kl,nats", "h.0,rollout,policy,MXFP4,0.5,kl,nats")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("layer,phase,role,format,metric,unit", "missing column cost"),
        ("phase,format", "missing column layer, cost"),
        ("layer,phase,format,cots", "unknown column 'cots': did you mean 'cost'?"),
        ("layer,phase,format,cost,cost", "column 'cost' is there twice"),
    ],
)
def test_a_faulty_header_is_reported_on_line_one(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(MatrixError, match=r"matrix\.csv:1: " + re.escape(message)):
        read(tmp_path, header=header)


def test_a_file_that_is_missing_empty_or_only_a_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match=r"cannot read sensitivity matrix .*gone\.csv: No such file"):
        SensitivityMatrix.read(tmp_path / "gone.csv")
    (tmp_path / "empty.csv").write_text("\n\n")
    with pytest.raises(MatrixError, match=r"empty\.csv:1: the file is empty"):
        SensitivityMatrix.read(tmp_path / "empty.csv")
    with pytest.raises(MatrixError, match="a header and no rows"):
        read(tmp_path)


def test_bytes_that_are_no_text_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes(f"{HEADER}\nh.0,rollout,policy,MXFP4,0.5,kl,nats\ncaf\xe9".encode("latin-1"))
    with pytest.raises(MatrixError, match=r"latin\.csv:3: byte 0xe9 is not UTF-8"):
        SensitivityMatrix.read(path)


text = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda t: len(t.strip().splitlines()) <= 1)
rows_strategy = st.builds(
    MatrixRow,
    layer=text.filter(lambda name: bool(name.strip()) and not is_glob(name)),
    phase=st.sampled_from(PHASES),
    role=st.sampled_from(ROLES),
    format=st.sampled_from(["MXFP4", "MXFP8/MXFP4", "MXFP6/FP16", "FP16"]),
    cost=st.floats(min_value=0),
    metric=text,
    unit=text,
)


@given(st.lists(rows_strategy, min_size=1, max_size=5, unique_by=lambda r: (*r.key, r.format)))
def test_what_is_written_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, rows: list[MatrixRow]) -> None:
    path = tmp_path_factory.mktemp("matrix") / "m.csv"
    SensitivityMatrix(tuple(rows)).write(path)
    assert SensitivityMatrix.read(path) == SensitivityMatrix(tuple(rows))


def test_a_matrix_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match="cannot write sensitivity matrix"):
        matrix(row("h.0", "MXFP4", 0.1)).write(tmp_path / "no_such_folder" / "m.csv")


# ---------------------------------------------------------------------------- choosing


def test_the_narrowest_format_that_is_cheap_enough_is_chosen() -> None:
    m = matrix(row("h.0", "MXFP8", 0.01), row("h.0", "MXFP4", 0.3), row("h.0", "MXFP6", 0.1))
    assert [chosen(m, limit)["h.0", "rollout", "policy"] for limit in (0, 0.01, 0.1, 0.29, 0.3)] == [
        "FP16",
        "MXFP8",
        "MXFP6",
        "MXFP6",
        "MXFP4",
    ]


def test_nothing_cheap_enough_means_fp16_without_a_cost() -> None:
    (choice,) = matrix(row("h.0", "MXFP8", 0.01)).choose(0.001)
    assert (choice.format, choice.cost) == ("FP16", None)


def test_ties_in_width_go_to_the_lower_cost_then_to_the_name() -> None:
    by_cost = matrix(row("h.0", "MXFP8", 0.02), row("h.0", "MXINT8", 0.01), row("h.0", "MXFP8_E5M2", 0.03))
    assert chosen(by_cost, 1.0) == {("h.0", "rollout", "policy"): "MXINT8"}
    by_name = matrix(row("h.0", "MXINT8", 0.01), row("h.0", "MXFP8", 0.01))
    assert chosen(by_name, 1.0) == {("h.0", "rollout", "policy"): "MXFP8"}


def test_the_width_of_a_pair_is_that_of_its_weights() -> None:
    m = matrix(row("h.0", "MXFP8/MXFP4", 0.01), row("h.0", "MXFP4/MXFP8", 0.02), row("h.0", "MXFP4/MXFP4", 0.05))
    assert chosen(m, 1.0) == {("h.0", "rollout", "policy"): "MXFP4/MXFP8"}


def test_an_infinite_cost_is_never_cheap_enough() -> None:
    m = matrix(row("h.0", "MXFP4", math.inf), row("h.0", "MXFP8", 5.0))
    assert chosen(m, math.inf) == {("h.0", "rollout", "policy"): "MXFP8"}


def test_layers_phases_and_roles_choose_apart() -> None:
    m = matrix(
        row("h.0", "MXFP4", 0.1),
        row("h.1", "MXFP4", 0.5),
        row("h.0", "MXFP4", 0.5, phase="reward"),
        row("h.0", "MXFP4", 0.1, phase="reward", role="value"),
    )
    assert chosen(m, 0.2) == {
        ("h.0", "rollout", "policy"): "MXFP4",
        ("h.1", "rollout", "policy"): "FP16",
        ("h.0", "reward", "policy"): "FP16",
        ("h.0", "reward", "value"): "MXFP4",
    }


@given(st.lists(st.floats(0, 10), min_size=4, max_size=4), st.floats(0, 10), st.floats(0, 10))
def test_a_higher_limit_never_chooses_a_wider_format(costs: list[float], one: float, other: float) -> None:
    m = matrix(*(row("h.0", f, c) for f, c in zip(("MXFP4", "MXFP6", "MXFP8", "MXINT8"), costs, strict=True)))
    low, high = (m.choose(limit)[0] for limit in sorted((one, other)))
    width = {"MXFP4": 4.25, "MXFP6": 6.25, "MXFP8": 8.25, "MXINT8": 8.25, "FP16": 16}
    assert width[high.format] <= width[low.format]
    assert low.cost is None or low.cost <= min(one, other)


# ---------------------------------------------------------------------------- units


MIXED = matrix(
    row("h.0", "MXFP4", 0.1, phase="rollout", unit="nats"),
    row("h.0", "MXFP4", 3.0, phase="reward", unit="%"),
    row("h.0", "MXFP4", 7.0, phase="reward", role="value", unit="points"),
)


def test_one_number_for_several_units_is_refused_with_the_units_by_phase() -> None:
    with pytest.raises(
        PolicyError, match=r"rollout/policy in nats, reward/policy in %, reward/value in points; give a mapping"
    ):
        MIXED.choose(1.0)


def test_a_limit_for_a_phase_whose_roles_differ_in_unit_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"max_cost\['reward'\].*reward/policy in %, reward/value in points"):
        MIXED.choose({"rollout": 0.1, "reward": 5})


def test_limits_by_phase_and_by_phase_and_role() -> None:
    assert chosen(MIXED, {"rollout": 0.05, "reward": 5, "reward/value": 6.9}) == {
        ("h.0", "rollout", "policy"): "FP16",
        ("h.0", "reward", "policy"): "MXFP4",
        ("h.0", "reward", "value"): "FP16",
    }


def test_a_phase_without_a_limit_is_refused() -> None:
    with pytest.raises(PolicyError, match="no limit for reward/policy, in %"):
        MIXED.choose({"rollout": 0.1, "reward/value": 1})


def test_a_limit_for_what_the_matrix_does_not_hold_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"max_cost names 'rolout', .*did you mean 'rollout'"):
        MIXED.choose({"rolout": 0.1})


def test_two_units_within_one_phase_and_role_are_refused_whatever_the_limit() -> None:
    m = matrix(row("h.0", "MXFP4", 0.1, unit="nats"), row("h.1", "MXFP4", 0.1, unit="%"))
    for limit in (1.0, {"rollout": 1.0}, {"rollout/policy": 1.0}):
        with pytest.raises(PolicyError, match="rollout/policy mixes units nats, %"):
            m.choose(limit)


def test_without_units_metrics_are_not_compared_either() -> None:
    m = matrix(
        MatrixRow("h.0", "rollout", "policy", "MXFP4", 0.1, "kl"),
        MatrixRow("h.0", "reward", "policy", "MXFP4", 0.1, "rank_loss"),
    )
    with pytest.raises(PolicyError, match="rollout/policy in kl, reward/policy in rank_loss"):
        m.choose(0.2)


@pytest.mark.parametrize("limit", [math.nan, -1, True, "0.1", None])
def test_a_limit_that_is_no_cost_is_refused(limit: object) -> None:
    with pytest.raises(PolicyError, match="max_cost"):
        matrix(row("h.0", "MXFP4", 0.1)).choose(limit)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------- as policy D


def test_policy_d_is_explicit_and_its_yaml_says_the_same(tmp_path: Path) -> None:
    m = matrix(row("h.0.attn", "MXFP4", 0.1), row("h.0.mlp", "MXFP4", 0.5), row("h.0.mlp", "MXFP8", 0.1))
    policy = PrecisionPolicy.from_matrix(m, 0.2)
    policy.to_yaml(tmp_path / "d.yaml")
    for d in (policy, PrecisionPolicy.from_yaml(tmp_path / "d.yaml")):
        assert d.resolve("h.0.attn.c_attn", "rollout") == "MXFP4"
        assert d.resolve("h.0.mlp.c_fc", "rollout") == "MXFP8"
        assert d.resolve("h.1.attn.c_attn", "rollout") == "FP16"


def test_the_longest_match_wins_whatever_the_order_of_rows() -> None:
    rows = [row("h.0.attn.c_proj", "MXFP8", 0.1), row("h", "MXINT8", 0.1), row("h.0.attn", "MXFP4", 0.1)]
    for order in (rows, rows[::-1], [rows[1], rows[0], rows[2]]):
        policy = PrecisionPolicy.from_matrix(matrix(*order), 0.2)
        assert policy.resolve("h.0.attn.c_proj", "rollout") == "MXFP8"
        assert policy.resolve("h.0.attn.c_attn", "rollout") == "MXFP4"
        assert policy.resolve("h.3.mlp", "rollout") == "MXINT8"


def test_a_choice_of_fp16_overrules_a_shorter_match() -> None:
    policy = PrecisionPolicy.from_matrix(matrix(row("h", "MXFP4", 0.1), row("h.0", "MXFP4", 9.0)), 0.2)
    assert policy.resolve("h.0.attn", "rollout") == "FP16"
    assert policy.resolve("h.1.attn", "rollout") == "MXFP4"


def test_layers_that_the_matrix_does_not_cover_are_listed() -> None:
    policy = PrecisionPolicy.from_matrix(matrix(row("h.0", "MXFP4", 0.1)), 0.2)
    assert policy.uncovered(["h.0.attn", "h.1.attn", "h.10"]) == ["h.1.attn", "h.10"]
    assert policy.uncovered(["h.0.attn"], phase="reward") == ["h.0.attn"]
    assert policy.uncovered(["h.0.attn"], role="value") == ["h.0.attn"]


def test_a_matrix_may_choose_the_output_heads_format_in_rollout_only() -> None:
    policy = PrecisionPolicy.from_matrix(matrix(row("lm_head", "MXFP8", 0.1)), 0.2)
    assert policy.resolve("lm_head", "rollout", is_lm_head=True) == "MXFP8"
    with pytest.raises(PolicyError, match=r"made here: layer 'lm_head', phase reward: .*read lm_head\.weight directly"):
        PrecisionPolicy.from_matrix(matrix(row("lm_head", "MXFP8", 0.1, phase="reward")), 0.2)


# ---------------------------------------------------------------------------- several metrics


PROFILED = (
    "h.0,rollout,policy,MXFP4,0.4,kl,nats/token",
    "h.0,rollout,policy,MXFP4,0.9,kl_all_but,nats/token",
    "h.0,gradient,policy,MXFP4,0.2,gradient_error,relative",
    "h.0,gradient,policy,MXFP4,0.1,gradient_cosine,1 - cosine",
)


def test_of_a_file_with_several_metrics_the_cost_of_a_layer_alone_is_read(tmp_path: Path) -> None:
    rows = read(tmp_path, *PROFILED).rows
    assert [(r.phase, r.metric, r.cost) for r in rows] == [("rollout", "kl", 0.4), ("gradient", "gradient_error", 0.2)]


def test_another_metric_is_read_where_it_is_asked_for(tmp_path: Path) -> None:
    read(tmp_path, *PROFILED)
    m = SensitivityMatrix.read(tmp_path / "matrix.csv", {"rollout": "kl_all_but"})
    assert [r.metric for r in m.rows] == ["kl_all_but", "gradient_error"]
    m = SensitivityMatrix.read(tmp_path / "matrix.csv", {"rollout/policy": "kl_all_but", "gradient": "gradient_cosine"})
    assert [r.cost for r in m.rows] == [0.9, 0.1]


def test_a_metric_that_the_file_does_not_hold_is_refused(tmp_path: Path) -> None:
    read(tmp_path, *PROFILED)
    with pytest.raises(MatrixError, match="no metric 'kl_al_but' for rollout/policy: did you mean 'kl_all_but'"):
        SensitivityMatrix.read(tmp_path / "matrix.csv", {"rollout": "kl_al_but"})
    with pytest.raises(MatrixError, match="no metric 'kl' for gradient/policy"):
        SensitivityMatrix.read(tmp_path / "matrix.csv", "kl")
    with pytest.raises(MatrixError, match=r"metric names 'rolout', .*did you mean 'rollout'"):
        SensitivityMatrix.read(tmp_path / "matrix.csv", {"rolout": "kl"})


def test_several_metrics_without_a_default_among_them_need_a_choice(tmp_path: Path) -> None:
    lines = ("h.0,rollout,policy,MXFP4,0.4,one,nats", "h.0,rollout,policy,MXFP4,0.9,two,nats")
    with pytest.raises(MatrixError, match=r"a second cost of MXFP4 .*\(metrics one, two\)"):
        read(tmp_path, *lines)
    assert SensitivityMatrix.read(tmp_path / "matrix.csv", "two").rows[0].cost == 0.9


def test_a_default_metric_that_leaves_a_layer_out_is_not_taken_in_silence(tmp_path: Path) -> None:
    m = read(tmp_path, "h.0,rollout,policy,MXFP4,0.4,kl,nats", "h.1,rollout,policy,MXFP4,0.9,loss,points")
    with pytest.raises(PolicyError, match="rollout/policy mixes units nats, points"):
        m.choose(1.0)

"""energy.csv's columns, and sums over them that keep measured and estimated joules apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mx_plugin.errors import LedgerError
from mx_plugin.ledger import COLUMNS, EnergyRow, closing_table, overall, summarise

ROWS = [
    EnergyRow(1, "rollout", "all", "all", seconds=2.0, joules=30.0, source="zeus:cpu", estimated=False),
    EnergyRow(
        1, "rollout", "policy", "MXFP4/MXFP8", "float32", None, 4_000_000_000, 2_000_000, 0.5, "modelled:x", True
    ),
    EnergyRow(1, "rollout", "policy", "FP16", "float32", None, 1_000_000_000, 1_000_000, 0.25, "modelled:x", True),
    EnergyRow(1, "gradient", "all", "all", seconds=3.0, source="zeus:cpu"),
    EnergyRow(2, "rollout", "all", "all", seconds=1.0, joules=10.0, source="zeus:cpu", estimated=False),
]


def test_the_columns_are_those_of_the_specification():
    assert ",".join(COLUMNS) == "step,phase,role,format,dtype,seconds,macs,bytes,joules,source,estimated"


def test_what_is_unknown_is_written_empty_and_never_zero():
    text = EnergyRow(3, "other", "all", "all", seconds=0.25).to_csv()
    assert [text[c] for c in COLUMNS] == ["3", "other", "all", "all", "", "0.25", "", "", "", "", ""]


def test_a_known_zero_is_written_as_zero():
    text = EnergyRow(3, "reward", "value", "FP16", macs=0, bytes=0, joules=0.0, source="m", estimated=True).to_csv()
    assert (text["macs"], text["bytes"], text["joules"], text["estimated"]) == ("0", "0", "0.0", "true")


@given(
    st.builds(
        EnergyRow,
        step=st.integers(0),
        phase=st.sampled_from(["rollout", "eval/rollout"]),
        role=st.just("policy"),
        format=st.just("MXFP4/MXFP8+sr"),
        dtype=st.sampled_from(["", "bfloat16"]),
        seconds=st.none() | st.floats(0, allow_infinity=False),
        macs=st.none() | st.integers(0),
        bytes=st.none() | st.integers(0),
        joules=st.none() | st.floats(0, allow_infinity=False),
        source=st.just("modelled:as-executed"),
        estimated=st.none() | st.booleans(),
    )
)
def test_a_row_comes_back_from_csv_as_it_was(row):
    assert EnergyRow.from_csv(row.to_csv()) == row


def test_a_row_that_cannot_be_read_names_the_column():
    good = ROWS[0].to_csv()
    with pytest.raises(LedgerError, match="macs='many'"):
        EnergyRow.from_csv(good | {"macs": "many"})
    with pytest.raises(LedgerError, match="without column 'joules'"):
        EnergyRow.from_csv({c: good[c] for c in COLUMNS if c != "joules"})


def test_a_summary_keeps_sources_apart_and_macs_by_format():
    rollout = summarise(ROWS)["rollout"]
    assert rollout.seconds == 3.0
    assert rollout.bytes == 3_000_000
    assert rollout.macs == {"MXFP4/MXFP8": 4_000_000_000, "FP16": 1_000_000_000}
    assert {source: (j.joules, j.estimated) for source, j in rollout.joules.items()} == {
        "zeus:cpu": (40.0, False),
        "modelled:x": (0.75, True),
    }


def test_a_sum_with_an_unknown_part_says_that_it_is_not_complete():
    total = overall(ROWS).joules["zeus:cpu"]
    assert (total.joules, total.complete, total.unknown, total.rows) == (40.0, False, 1, 3)
    assert summarise(ROWS)["gradient"].joules["zeus:cpu"].joules is None


def test_the_closing_table_shows_unknown_lower_bounds_and_estimates_as_what_they_are():
    text = closing_table(ROWS, reasons={"zeus:cpu": "the counter went away"}, reward=(0.125, None))
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert "J zeus:cpu" in lines["phase"] and "J modelled:x (est.)" in lines["phase"]
    assert lines["rollout"].split() == [
        "rollout",
        "3.00",
        "40",
        "0.75",
        "0.003",
        "FP16",
        "1.000,",
        "MXFP4/MXFP8",
        "4.000",
    ]
    assert lines["gradient"].split() == ["gradient", "3.00", "n/a"]
    assert lines["total"].split()[:5] == ["total", "6.00", ">=", "40", "0.75"]
    assert "zeus:cpu: unknown in 1 of 3 rows: the counter went away" in text
    assert "modelled:x: (est.)" in text
    assert "reward: 0.125 -> n/a" in text


def test_the_closing_table_gives_the_reason_when_a_meter_never_knew():
    rows = [EnergyRow(1, "rollout", "all", "all", seconds=1.0, source="zeus")]
    text = closing_table(rows, reasons={"zeus": "RAPL is not there"})
    assert "zeus: n/a: RAPL is not there" in text


def test_the_closing_table_of_no_rows_has_a_total_that_is_unknown():
    assert closing_table([]).splitlines()[-1].split() == ["total", "n/a"]

"""One ledger of several ranks': what is summed, what is not."""

from __future__ import annotations

from mx_plugin.ledger import EnergyRow, sum_over_ranks


def rows(seconds: float, macs: int, joules: float | None, meter: float | None = None) -> list[EnergyRow]:
    total = EnergyRow(1, "gradient", "all", "all", seconds=seconds)
    if meter is not None:
        total = EnergyRow(1, "gradient", "all", "all", "", seconds, None, None, meter, "zeus:cpu", False)
    source = "modelled:as-executed"
    estimated = None if joules is None else True
    work = EnergyRow(1, "gradient", "policy", "MXFP8", "float32", None, macs, 2 * macs, joules, source, estimated)
    return [total, work]


def test_work_and_joules_are_summed_and_the_main_ranks_seconds_kept() -> None:
    total, work = sum_over_ranks([rows(2.0, 10, 1.0), rows(3.0, 5, 0.5)])
    assert (total.seconds, total.joules) == (2.0, None)
    assert (work.macs, work.bytes, work.joules, work.estimated) == (15, 30, 1.5, True)


def test_joules_that_one_rank_does_not_know_are_unknown() -> None:
    _, work = sum_over_ranks([rows(2.0, 10, 1.0), rows(3.0, 5, None)])
    assert (work.macs, work.joules, work.estimated) == (15, None, None)


def test_a_meter_that_one_rank_of_the_machine_reads_is_counted_once() -> None:
    found = sum_over_ranks([rows(2.0, 10, 1.0, meter=7.0), rows(3.0, 5, 0.5)])
    assert [(row.source, row.joules, row.seconds) for row in found if row.role == "all"] == [("zeus:cpu", 7.0, 2.0)]


def test_meters_of_two_machines_are_summed() -> None:
    found = sum_over_ranks([rows(2.0, 10, 1.0, meter=7.0), rows(3.0, 5, 0.5, meter=4.0)])
    assert [(row.joules, row.seconds) for row in found if row.role == "all"] == [(11.0, 2.0)]


def test_what_only_another_rank_executed_is_there() -> None:
    expert = EnergyRow(1, "gradient", "policy", "MXFP4", "float32", macs=3, bytes=4)
    assert expert in sum_over_ranks([rows(2.0, 10, 1.0), [*rows(3.0, 5, 0.5), expert]])


def test_one_rank_changes_nothing() -> None:
    assert sum_over_ranks([rows(2.0, 10, 1.0)]) == rows(2.0, 10, 1.0)

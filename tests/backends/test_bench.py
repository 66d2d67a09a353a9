"""``mx-plugin bench``: arithmetic of the rows, the command, and every bench once on tiny sizes. Never a time."""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mx_cpu.bench import memory
from mx_cpu.bench.casts import cast_rows
from mx_cpu.bench.linears import linear_rows
from mx_cpu.bench.overhead import overhead_rows
from mx_cpu.bench.peers import Int4Pack, cast_peers, linear_peers
from mx_cpu.bench.training import train_rows
from mx_plugin import hookimpl, plugins
from mx_plugin.bench import Bench, BenchUnavailable, Effort, Row
from mx_plugin.cli import main

Capture = pytest.CaptureFixture[str]


class FakeClock:
    """Gives the k-th of ``len(seconds)`` alternated runs ``seconds[k]``, round by round."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = seconds
        self.readings = 0

    def __call__(self) -> float:
        run, stops = divmod(self.readings, 2)
        self.readings += 1
        return self.seconds[run % len(self.seconds)] if stops else 0.0


def bench_with(clock: Any, **options: str) -> Bench:
    """No budget, no rotation, a memory of 1 GB/s, and options of the command line."""
    arguments = argparse.Namespace(**{"pairs": "MXFP4/MXFP8", "rows": "1", **options})
    return Bench(arguments, "cpu", Effort(0.0, clock), 1e9, rotated_bytes=1, report=lambda text: None)


# ---------------------------------------------------------------------------- arithmetic


def test_medians_leave_out_the_first_run_and_outliers() -> None:
    executed: list[str] = []
    readings = iter([0, 9.0, 0, 1.0, 0, 1.1])
    medians = Effort(0.0, lambda: next(readings)).medians({"a": lambda: executed.append("a")}, least=3)
    assert medians == {"a": 1.1}
    assert len(executed) == 4


def test_runs_alternate() -> None:
    order: list[str] = []
    Effort(0.0).medians({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, least=2)
    assert order == ["a", "b"] * 3


def test_a_device_is_waited_for_before_each_reading_of_the_clock() -> None:
    """Else a run that only hands out work would seem to take no time, and the next one would pay for it."""
    told: list[str] = []

    def clock() -> float:
        told.append("clock")
        return 0.0

    Effort(0.0, clock, lambda: told.append("settle")).medians({"a": lambda: told.append("run")}, least=1)
    assert told == ["run", "settle", "clock", "run", "settle", "clock"]


def test_a_run_that_replays_others_is_measured_by_one_of_them() -> None:
    class Replayed:
        calls = 4

        def __call__(self) -> None: ...

    readings = iter([0, 2.0])
    assert Effort(0.0, lambda: next(readings)).medians({"a": Replayed()}, least=1) == {"a": 0.5}


def test_casts_and_layers_are_replayed_in_whole_turns_where_the_device_wants_it() -> None:
    replayed: list[int] = []

    def remembered(run: Any) -> Any:
        replayed.append(getattr(run, "period", 1))
        return run

    bench = bench_with(FakeClock(1.0, 1.0))
    bench.rotated_bytes, bench.replayed = 5 * 32 * 64 * 2, remembered
    list(linear_rows(bench, ((32, 64),)))
    assert replayed == [5, 19], "as many equal layers as make up the bytes: bfloat16 ones and MXFP4 ones"
    list(cast_rows(bench, 64))
    assert len(replayed) > 20, "and all casts"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "mps"], "benches run on cpu or cuda"),
        (["--device", "cuda", "--cpu-time", "--threads", "1"], "--cpu-time measures the processor"),
        pytest.param(
            ["--device", "cuda"], "finds no CUDA device; take --device cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here"),
        ),
    ],
)  # fmt: skip
def test_a_device_that_cannot_be_measured_is_refused(options: list[str], message: str, capsys: Capture) -> None:
    assert main(["bench", "cast", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("b", "c", "w", 1.0), None),
        (Row("b", "c", "w", 1.0, ratio=2.0), None),
        (Row("b", "c", "w", 1.0, ratio=2.0, target=2.0), True),
        (Row("b", "c", "w", 1.0, ratio=1.9, target=2.0), False),
        (Row("b", "c", "w", 8e-6, at_most=8e-6), True),
        (Row("b", "c", "w", 9e-6, at_most=8e-6), False),
        (Row("b", "c", "w", 9e-6, ratio=3.0, target=2.0, at_most=8e-6), False),
    ],
)
def test_a_row_knows_whether_its_targets_were_met(row: Row, met: bool | None) -> None:
    assert row.met is met
    assert row.plain()["met"] is met


def test_a_linear_layers_ratio_is_to_bf16_and_its_limit_the_read_of_its_bytes() -> None:
    bench = bench_with(FakeClock(6.0, 2.0))
    rows = {row.what: row for row in linear_rows(bench, shapes=((64, 96),)) if "/" in row.what or row.what == "bf16"}
    assert rows["bf16"].ratio == 1.0
    assert (rows["MXFP4/MXFP8"].seconds, rows["MXFP4/MXFP8"].ratio) == (2.0, 3.0)
    limit = rows["MXFP4/MXFP8 read limit"]
    assert limit.seconds == 64 * 96 * 4.25 / 8 / 1e9
    assert limit.ratio == 6.0 / limit.seconds


def test_a_casts_ratio_is_of_bytes_moved_not_of_seconds() -> None:
    """14 runs of one second each: a cast to MXFP8 moves 4 + 8.25/8 bytes an element, the copy 8."""
    rows = list(cast_rows(bench_with(FakeClock(1.0)), size=64))
    by_case = {(row.case, row.what): row for row in rows}
    assert by_case["float32 64x64", "copy_"].ratio == 1.0
    assert by_case["float32 64x64", "quantize MXFP8"].ratio == (4 + 8.25 / 8) / 8
    assert by_case["float32 64x64", "fake_quantize MXFP8"].ratio == 1.0
    assert by_case["bfloat16 64x64", "quantize MXFP4 dim 0"].ratio == (2 + 4.25 / 8) / 4


def test_the_training_ratio_is_of_speed_and_its_note_of_time() -> None:
    rows = list(train_rows(bench_with(FakeClock(2.0, 2.5)), rows=32, size=64))
    assert [(row.ratio, row.note) for row in rows[:2]] == [(1.0, ""), (0.8, "1.25 times the plain time")]
    assert rows[1].target == 1 / 1.15 and rows[3].target is None


def test_the_overhead_is_a_call_of_the_adopted_layer_less_a_trivial_one() -> None:
    rows = list(overhead_rows(bench_with(FakeClock(2e-6, 3e-6, 12e-6, 8e-6)), calls=2))
    assert [row.seconds for row in rows] == pytest.approx([1e-6, 1.5e-6, 6e-6, 4e-6, 5e-6])
    assert rows[-1].met is True


# ---------------------------------------------------------------------------- peers


@torch.no_grad()
def test_int4pack_computes_the_layer_to_within_four_bits() -> None:
    weight, x = torch.randn(64, 128).bfloat16(), torch.randn(3, 128).bfloat16()
    peer = Int4Pack(weight)
    y, exact = copy.deepcopy(peer)(x), F.linear(x, weight)
    assert (y - exact).norm() / exact.norm() < 0.12
    assert peer.nbytes == 64 * 128 * 5 / 8


@torch.no_grad()
def test_every_installed_peer_computes_the_layer() -> None:
    weight, x = torch.randn(64, 128).bfloat16(), torch.randn(3, 128).bfloat16()
    exact = F.linear(x, weight)
    for kind in linear_peers(bench_with(FakeClock(1.0))):
        y = kind(weight)(x)
        assert (y - exact).norm() / exact.norm() < 0.25, kind.name


def test_a_peer_that_is_not_installed_is_noted_once_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mx_cpu.bench.peers.find_spec", lambda name: None)
    bench = bench_with(FakeClock(1.0))
    assert linear_peers(bench) == [Int4Pack]
    assert cast_peers(bench) == []
    assert sorted(bench.notes) == [
        "no row of a peer: bitsandbytes is not installed: pip install bitsandbytes",
        "no row of a peer: torchao is not installed: pip install torchao",
    ]


def test_peers_stand_in_the_same_table_against_the_same_baseline() -> None:
    bench = bench_with(FakeClock(1.0), rows="1,2")
    rows = list(linear_rows(bench, shapes=((64, 64),)))
    with_peer = {row.case for row in rows if row.what == Int4Pack.name}
    assert with_peer == {"64x64 M=1"}, "peers are measured where they are meant for: few rows"


# ---------------------------------------------------------------------------- memory


def test_rotated_weights_exceed_the_caches() -> None:
    assert memory.rotated_bytes() >= min(2 * memory.cache_bytes(), memory.MOST)
    assert memory.LEAST <= memory.rotated_bytes() <= memory.MOST


@pytest.mark.parametrize(("text", "size"), [("32K\n", 32 << 10), ("48M", 48 << 20), ("7", 7), ("unknown", 0), ("", 0)])
def test_cache_sizes_as_the_kernel_writes_them(text: str, size: int) -> None:
    assert memory._bytes(text) == size


# ---------------------------------------------------------------------------- the command


class OneBench:
    """A plugin with one bench, ``mine``, and an option of its own."""

    def __init__(self, rows: Any, option: str = "--mine") -> None:
        self.rows, self.option = rows, option

    @hookimpl
    def mx_register_benches(self, register: Any) -> None:
        register("mine", self.rows, lambda parser: parser.add_argument(self.option), summary="of my own")


def one_row(bench: Bench) -> Iterator[Row]:
    print("a trainer that prints")
    yield Row("mine", "a case", str(bench.arguments.mine), 0.5, 2.0, 1.5)
    bench.note("that was all")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plugins anew, and a memory that is measured in no time."""
    monkeypatch.setattr("mx_cpu.bench.command.rotated_bytes", lambda: 1 << 20)
    plugins.reset()
    yield
    plugins.reset()


@pytest.mark.usefixtures("quick")
def test_json_has_machine_rows_and_notes_and_nothing_else_on_stdout(capsys: Capture) -> None:
    plugins.register(OneBench(one_row))
    threads = torch.get_num_threads()
    assert main(["bench", "mine", "--json", "--mine", "word"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["schema"] == 1
    assert report["notes"] == ["that was all"]
    assert report["rows"] == [
        {
            "bench": "mine", "case": "a case", "what": "word", "seconds": 0.5, "ratio": 2.0, "target": 1.5,
            "stretch": None, "at_most": None, "note": "", "met": True,
        }
    ]  # fmt: skip
    assert set(report["machine"]) == {
        "processor", "processors", "cache_bytes", "threads", "load_before", "backend", "implementation", "level",
        "torch", "mx_plugin", "device", "rotated_bytes", "read_bytes_per_s", "clock",
    }  # fmt: skip
    assert "a trainer that prints" in captured.err
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("quick")
def test_the_table_shows_ratio_target_and_verdict(capsys: Capture) -> None:
    plugins.register(OneBench(one_row))
    assert main(["bench", "mine", "--mine", "word"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-2].split() == ["bench", "case", "what", "time", "ratio", "target", "stretch"]
    assert out[-1].split() == ["mine", "a", "case", "word", "500.00", "ms", "2.00", "1.50", "met"]


@pytest.mark.usefixtures("quick")
def test_a_bench_that_cannot_run_is_an_error_only_when_it_was_asked_for(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(bench: Bench) -> Iterator[Row]:
        raise BenchUnavailable("no abacus: pip install abacus")
        yield

    plugins.register(OneBench(missing))
    assert main(["bench", "mine"]) == 2
    assert "no abacus: pip install abacus" in capsys.readouterr().err
    only = {"mine": plugins.benches()["mine"]}
    monkeypatch.setattr("mx_plugin.plugins.benches", lambda: only)
    assert main(["bench", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == ["mine is left out: no abacus: pip install abacus"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lineer"], "unknown bench 'lineer': did you mean 'linear'?"),
        (["linear", "--rows", "1,x"], "--rows '1,x' is not a list of positive numbers; write e.g. 1,4,16"),
        (["linear", "--shapes", "64"], "--shapes '64' is not a list of sizes out x in; write e.g. 768x288,288x768"),
        (["linear", "--shapes", "64x0"], "--shapes '64x0' is not a list of sizes out x in"),
        (["linear", "--rows", "0"], "--rows '0' is not a list of positive numbers"),
        (["linear", "--pairs", "MXPF4"], "did you mean 'MXFP4'?"),
        (["cast", "--threads", "0"], "--threads 0: at least one thread computes"),
        (["cast", "--budget", "-1"], "--budget -1.0 is not a number of seconds"),
        (["cast", "--budget", "nan"], "--budget nan is not a number of seconds"),
        (["cast", "--cpu-time", "--threads", "2"], "--cpu-time measures one thread, --threads is 2: add --threads 1"),
        (["cast", "--backend", "cpv"], "unknown backend 'cpv': did you mean 'cpu'?"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(words: list[str], message: str, capsys: Capture) -> None:
    assert main(["bench", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_two_benches_with_one_option_name_the_plugin(capsys: Capture) -> None:
    plugins.register(OneBench(one_row, option="--rows"), "greedy")
    assert main(["bench", "cast"]) == 2
    assert "bench 'mine' (plugin greedy) adds an option that exists" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_every_bench_of_ours_is_listed_with_what_it_measures(capsys: Capture) -> None:
    assert main(["bench", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for name in ("cast", "linear", "train", "overhead"):
        assert f"{name}: " in out


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_benches_of_the_backend_run_at_full_size(capsys: Capture) -> None:
    assert main(["bench", "cast", "linear", "train", "overhead", "--rows", "1,512", "--budget", "0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {row["bench"] for row in report["rows"]} == {"cast", "linear", "train", "overhead"}
    aimed = {(row["bench"], row["case"], row["what"]) for row in report["rows"] if row["met"] is not None}
    assert {
        ("linear", "4096x4096 M=1", "MXFP4/MXFP8"),
        ("linear", "4096x4096 M=1", "MXFP4/MXFP8 share of read limit"),
        ("linear", "4096x4096 M=1", "MXFP8/MXFP8"),
        ("linear", "4096x4096 M=512", "MXFP4/MXFP8"),
        ("cast", "float32 4096x4096", "quantize MXFP4"),
        ("cast", "float32 4096x4096", "quantize MXFP8"),
        ("cast", "bfloat16 4096x4096", "quantize MXFP4"),
        ("cast", "float32 4096x4096", "fake_quantize MXFP8"),
        ("train", "bfloat16 4096x4096 M=512", "MXFP8 forward, dgrad, wgrad"),
        ("overhead", "32x32 M=1, a call", "adopted less trivial"),
    } == aimed

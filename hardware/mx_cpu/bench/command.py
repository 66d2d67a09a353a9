"""``mx-plugin bench cast|linear``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator

import torch

from mx_plugin import get_backend
from mx_plugin.errors import MXError
from mx_plugin.formats import parse_pair

from .casts import cast_rows
from .linears import linear_rows
from .timing import Effort, Row, bandwidth

BENCHES = ("cast", "linear")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benches", nargs="*", metavar="BENCH", help=f"any of {', '.join(BENCHES)}; default: all")
    parser.add_argument("--backend", default="cpu", help="backend to measure (default: cpu)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="torch threads (default: 2)")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds spent on each measured line (default: 1)")
    parser.add_argument("--cpu-time", action="store_true", help="one thread's processor time: for a busy machine")
    parser.add_argument("--pairs", default="MXFP4/MXFP8,MXFP8/MXFP8", help="pairs for linear, separated by commas")
    parser.add_argument("--rows", default="1,4,16,32,64,128,512", help="numbers of activation rows for linear")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; the exit status does not depend on what was measured."""
    chosen = arguments.benches or list(BENCHES)
    unknown = [name for name in chosen if name not in BENCHES]
    if unknown:
        raise MXError(f"unknown bench {unknown[0]!r}; valid: {', '.join(BENCHES)}")
    pairs = tuple(str(parse_pair(pair)) for pair in arguments.pairs.split(","))
    rows = _numbers(arguments.rows)
    if arguments.cpu_time and arguments.threads != 1:
        raise MXError(f"--cpu-time measures one thread, --threads is {arguments.threads}: add --threads 1")
    before = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    try:
        machine = _machine(arguments.backend)
        lines = []
        if not arguments.json:
            print(_headline(machine))
        for row in _measure(chosen, arguments, pairs, rows, float(str(machine["read_bytes_per_s"]))):
            lines.append(row)
            if not arguments.json:
                print(_text(row), flush=True)
    finally:
        torch.set_num_threads(before)
    if arguments.json:
        print(json.dumps({"machine": machine, "rows": [row.plain() for row in lines]}, indent=2))
    return 0


def _measure(
    chosen: list[str], arguments: argparse.Namespace, pairs: tuple[str, ...], rows: tuple[int, ...], read_rate: float
) -> Iterator[Row]:
    effort = Effort(arguments.budget, time.thread_time if arguments.cpu_time else time.perf_counter)
    backend = get_backend(arguments.backend)
    try:
        if "cast" in chosen:
            yield from cast_rows(backend, effort)
        if "linear" in chosen:
            yield from linear_rows(backend, effort, pairs, rows, read_rate)
    finally:
        backend.close()


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise MXError(f"--rows {text!r} is not a list of positive numbers; write e.g. 1,4,16")
    return numbers


def _machine(backend: str) -> dict[str, object]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    made = get_backend(backend)
    level = getattr(made, "level", "none")
    made.close()
    return {
        "backend": backend,
        "level": level,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "load_before": load,
        "read_bytes_per_s": bandwidth(),
    }


def _headline(machine: dict[str, object]) -> str:
    load, processors = float(str(machine["load_before"])), int(str(machine["processors"]))
    lines = [
        f"backend {machine['backend']} (level {machine['level']}), torch {machine['torch']}, "
        f"{machine['threads']} threads, streaming read {float(str(machine['read_bytes_per_s'])) / 1e9:.1f} GB/s"
    ]
    if load > processors / 2:
        print(
            f"the machine is busy (load {load:.1f} on {processors} processors): ratios are uncertain", file=sys.stderr
        )
    lines.append(f"{'bench':<7} {'case':<21} {'what':<31} {'ms':>9} {'ratio':>6} {'target':>7} {'stretch':>7}")
    return "\n".join(lines)


def _text(row: Row) -> str:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    met = "" if row.target is None or row.ratio is None else ("met" if row.ratio >= row.target else "missed")
    return (
        f"{row.bench:<7} {row.case:<21} {row.what:<31} {row.seconds * 1e3:9.3f} {number(row.ratio):>6} "
        f"{number(row.target):>7} {number(row.stretch):>7} {met:<6} {row.note}"
    ).rstrip()

"""``mx-plugin bench``: runs the benches that plugins registered, and prints their rows as one table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mx_plugin import __version__, get_backend, plugins
from mx_plugin.bench import Bench, BenchUnavailable, Effort, Row
from mx_plugin.errors import MXError, PluginError
from mx_plugin.plugins import RegisteredBench

from . import accelerator
from .memory import LEAST, MOST, bandwidth, cache_bytes, rotated_bytes

SCHEMA = 1
"""Of ``--json``: ``{"schema", "machine": {...}, "rows": [Row.plain()], "notes": [text]}``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options, and those of every bench."""
    benches = plugins.benches()
    parser.add_argument("benches", nargs="*", metavar="BENCH", help=f"any of {', '.join(benches)}; default: all")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, where tensors are made (default: cpu)")
    parser.add_argument("--backend", help="backend to measure (default: the device's, cpu or cuda)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="torch threads (default: 2)")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds spent on each measured line (default: 1)")
    parser.add_argument("--cpu-time", action="store_true", help="one thread's processor time: for a busy machine")
    parser.add_argument("--json", action="store_true", help="print JSON")
    for bench in benches.values():
        _add_own(bench, parser)
    lines = [f"{bench.name}: {bench.summary}" for bench in benches.values() if bench.summary]
    parser.epilog = " | ".join(lines)


def _add_own(bench: RegisteredBench, parser: argparse.ArgumentParser) -> None:
    if bench.add_arguments is None:
        return
    try:
        bench.add_arguments(parser)
    except argparse.ArgumentError as error:
        raise PluginError(f"bench {bench.name!r} ({bench.plugin}) adds an option that exists: {error}") from error


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; the exit status does not depend on what was measured.

    Raises:
        PluginError: an unknown bench or backend.
        BenchUnavailable: a bench that was asked for by name cannot run here, or there is no such device.
        MXError: arguments that do not fit together.
    """
    chosen = _chosen(arguments.benches, plugins.benches())
    _check(arguments)
    device = accelerator.checked(arguments.device)
    before = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    try:
        bench, machine = _prepared(arguments, device)
        _warn_if_busy(machine)
        if not arguments.json:
            print(_headline(machine))
        rows = []
        for row in _measured(chosen, bench, named=bool(arguments.benches)):
            rows.append(row.plain())
            if not arguments.json:
                print(_text(row), flush=True)
    finally:
        torch.set_num_threads(before)
    if arguments.json:
        print(json.dumps({"schema": SCHEMA, "machine": machine, "rows": rows, "notes": bench.notes}, indent=1))
    return 0


def _chosen(names: list[str], benches: Mapping[str, RegisteredBench]) -> list[RegisteredBench]:
    for name in names:
        if name not in benches:
            raise PluginError(plugins.unknown("bench", name, benches))
    return [benches[name] for name in dict.fromkeys(names or benches)]


def _check(arguments: argparse.Namespace) -> None:
    if arguments.threads < 1:
        raise MXError(f"--threads {arguments.threads}: at least one thread computes")
    if not arguments.budget >= 0:
        raise MXError(f"--budget {arguments.budget} is not a number of seconds, 0 or more")
    if arguments.cpu_time and arguments.device != "cpu":
        raise MXError(f"--cpu-time measures the processor, --device is {arguments.device}: leave one of them out")
    if arguments.cpu_time and arguments.threads != 1:
        raise MXError(f"--cpu-time measures one thread, --threads is {arguments.threads}: add --threads 1")


def _prepared(arguments: argparse.Namespace, device: str) -> tuple[Bench, dict[str, Any]]:
    """The bench that all are handed, and what is said of the machine."""
    effort = Effort(arguments.budget, time.thread_time if arguments.cpu_time else time.perf_counter)
    if device != "cpu":
        effort = replace(effort, settle=torch.cuda.synchronize)
    machine = _machine(arguments.backend or device.split(":")[0], effort, device)
    bench = Bench(
        arguments=arguments,
        backend=machine["backend"],
        effort=effort,
        read_bytes_per_s=machine["read_bytes_per_s"],
        rotated_bytes=machine["rotated_bytes"],
        device=device,
    )
    if device != "cpu":
        bench.replayed = accelerator.Replayed
    return bench, machine


def _measured(chosen: list[RegisteredBench], bench: Bench, named: bool) -> Iterator[Row]:
    for registered in chosen:
        try:
            with redirect_stdout(sys.stderr):  # a peer or trainer that prints must not spoil the table
                rows = registered.rows(bench)
                row = next(rows, None)
            while row is not None:
                yield row
                with redirect_stdout(sys.stderr):
                    row = next(rows, None)
        except BenchUnavailable as error:
            if named:
                raise
            bench.note(f"{registered.name} is left out: {error}")


# ---------------------------------------------------------------------------- the machine


def _machine(backend: str, effort: Effort, device: str) -> dict[str, Any]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    made = get_backend(backend)
    implementation, level = made.name, getattr(made, "level", None)
    made.close()
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": load,
        "device": device,
        "backend": backend,
        "implementation": implementation,
        "level": level,
        "torch": torch.__version__,
        "mx_plugin": __version__,
        "clock": effort.clock.__name__,
        **(_processor_limits(effort) if device == "cpu" else _card_limits(device)),
    }


def _processor_limits(effort: Effort) -> dict[str, Any]:
    rotated = rotated_bytes()
    return {
        "cache_bytes": cache_bytes(),
        "rotated_bytes": rotated,
        "read_bytes_per_s": bandwidth(rotated, effort.clock),
    }


def _card_limits(device: str) -> dict[str, Any]:
    """A card's: what it reads is measured by a copy, half of whose bytes are written."""
    card = torch.cuda.get_device_properties(device)
    return {
        "card": card.name,
        "capability": f"{card.major}.{card.minor}",
        "cache_bytes": card.L2_cache_size,
        "rotated_bytes": min(max(LEAST, 2 * card.L2_cache_size), MOST),
        "read_bytes_per_s": accelerator.copy_bandwidth(device),
        "bf16_flops_per_s": accelerator.matmul_rate(device),
    }


def _processor() -> str:
    """The processor's name, as Linux has it, else what Python knows."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _warn_if_busy(machine: dict[str, Any]) -> None:
    load, processors = machine["load_before"], machine["processors"]
    if load is not None and processors and load > processors / 2:
        print(
            f"the machine is busy (load {load:.1f} on {processors} processors): ratios are uncertain", file=sys.stderr
        )


# ---------------------------------------------------------------------------- the table


def _headline(machine: dict[str, Any]) -> str:
    where = (
        f"{machine['processor']}, {machine['threads']} of {machine['processors']} processors, torch {machine['torch']}"
    )
    what = f"backend {machine['backend']} ({machine['implementation']}, level {machine['level']})"
    reading = f"streaming read {machine['read_bytes_per_s'] / 1e9:.1f} GB/s"
    if "card" in machine:
        where = f"{machine['card']}, compute capability {machine['capability']}, torch {machine['torch']}"
        rate = f"bf16 products {machine['bf16_flops_per_s'] / 1e12:.0f} TFLOP/s"
        reading = f"copy {machine['read_bytes_per_s'] / 1e9:.0f} GB/s, {rate}"
    rotated = f"weights rotated over {machine['rotated_bytes'] >> 20} MiB"
    titles = f"{'bench':<8} {'case':<26} {'what':<34} {'time':>10} {'ratio':>6} {'target':>7} {'stretch':>7}"
    return f"{where}\n{what}, {reading}, {rotated}\n{titles}"


def _text(row: Row) -> str:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    target = number(row.target) if row.at_most is None else f"<{row.at_most * 1e6:.0f}us"
    met = {None: "", True: "met", False: "missed"}[row.met]
    return (
        f"{row.bench:<8} {row.case:<26} {row.what:<34} {_time(row.seconds):>10} {number(row.ratio):>6} "
        f"{target:>7} {number(row.stretch):>7} {met:<6} {row.note}"
    ).rstrip()


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.2f} {unit}"
    return f"{seconds * 1e6:.2f} us"

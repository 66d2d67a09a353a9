"""What mx_cpu registers with mx-plugin. Imports no torch."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mx_plugin.hookspecs import RegisterBench, RegisterCommand, RegisterFactory, hookimpl

if TYPE_CHECKING:
    from mx_plugin.bench import Bench, Row
    from mx_plugin.check import Check
    from mx_plugin.interfaces import Backend

MX_PLUGIN_INTERFACE = (1, 0)


@hookimpl
def mx_register_backends(register: RegisterFactory) -> None:
    """``cpu``, the default, and ``reference``, which others are compared with."""
    register("cpu", _cpu, summary="native C++ kernels; the reference where they were not built")
    register("reference", _reference, summary="plain torch, bit-exact, any device")


@hookimpl
def mx_register_checks(register: Callable[[Callable[[], list[Check]]], None]) -> None:
    """Which implementation ``cpu`` is, threads and instruction sets."""
    from .checks import implementation_checks

    register(implementation_checks)


@hookimpl
def mx_register_commands(register: RegisterCommand) -> None:
    """``mx-plugin bench``."""
    register("bench", _add_bench_arguments, _run_bench, summary="measure speed against plain torch, in alternated runs")


@hookimpl
def mx_register_benches(register: RegisterBench) -> None:
    """What needs torch only; adapters add what needs a framework."""
    register("cast", _cast, summary="casts against copy_, in bytes moved")
    register("linear", _linear, _add_linear_arguments, summary="linear layers against bf16")
    register("train", _train, summary="forward and backward of a layer, all MXFP8")
    register("overhead", _overhead, summary="Python's part in a call")


def _cast(bench: Bench) -> Iterator[Row]:
    from .bench.casts import cast_rows

    return cast_rows(bench)


def _linear(bench: Bench) -> Iterator[Row]:
    from .bench.linears import linear_rows

    return linear_rows(bench)


def _add_linear_arguments(parser: argparse.ArgumentParser) -> None:
    from .bench.linears import add_arguments

    add_arguments(parser)


def _train(bench: Bench) -> Iterator[Row]:
    from .bench.training import train_rows

    return train_rows(bench)


def _overhead(bench: Bench) -> Iterator[Row]:
    from .bench.overhead import overhead_rows

    return overhead_rows(bench)


def _add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    from .bench.command import add_arguments

    add_arguments(parser)


def _run_bench(arguments: argparse.Namespace) -> int:
    from .bench.command import run

    return run(arguments)


def _cpu(**options: Any) -> Backend:
    from .library import NativeUnavailable
    from .native_backend import NativeBackend

    try:
        return NativeBackend(**options)
    except NativeUnavailable as error:
        logging.getLogger("mx_cpu").warning("backend cpu is the reference in plain torch, many times slower: %s", error)
        return _reference(**options)


def _reference(**options: Any) -> Backend:
    from .reference import ReferenceBackend

    return ReferenceBackend(**options)

"""mx_cpu's lines in ``mx-plugin doctor``."""

from __future__ import annotations

import importlib
import os
import platform
from pathlib import Path

from mx_plugin.check import Check

CPUINFO = Path("/proc/cpuinfo")

INSTRUCTION_SETS = ("avx2", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_vbmi", "amx_bf16", "asimd", "bf16")
"""Flags in /proc/cpuinfo that matter to MX kernels (x86 and Arm names)."""


def implementation_checks() -> list[Check]:
    """Which implementation the backend ``cpu`` is, and what this processor could run."""
    return [
        _implementation(),
        Check("mx_cpu threads", "ok", _threads()),
        Check("mx_cpu instruction sets", "ok", _instruction_sets(CPUINFO)),
    ]


def _implementation() -> Check:
    name = "mx_cpu implementation"
    library = importlib.import_module("mx_cpu.library")
    try:
        native = library.library()
    except library.NativeUnavailable as error:
        cost = "cpu is the reference in plain torch: same bits, but MX makes a model many times slower, not faster"
        return Check(name, "warn", f"{cost}. {error}", "install a C++ compiler, then: python -m mx_cpu.build")
    forced = os.environ.get(library.ISA_VARIABLE)
    why = f"forced by {library.ISA_VARIABLE}" if forced else "the best that this processor runs"
    if named := os.environ.get(library.LIBRARY_VARIABLE):
        why += f", loaded from {library.LIBRARY_VARIABLE}={named}"
    pool = "torch's OpenMP threads" if native.pool is not None else "threads of its own, started for each call"
    if native.level in library.BF16_LEVELS:
        return Check(name, "ok", f"cpu is native, level {native.level} ({why}), on {pool}")
    lost = "no bfloat16 dot products: weights are packed, but a model is hardly faster than in bfloat16"
    return Check(name, "ok", f"cpu is native, level {native.level} ({why}), on {pool}; {lost}")


def _threads() -> str:
    torch = importlib.import_module("torch")
    return f"torch uses {torch.get_num_threads()} of {os.cpu_count()} processors"


def _instruction_sets(cpuinfo: Path) -> str:
    """Those of INSTRUCTION_SETS that the first processor lists; says so where nothing can be read."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"{platform.machine()}; unknown: {cpuinfo} cannot be read ({error.strerror})"
    flags: set[str] = set()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
            break
    found = [name for name in INSTRUCTION_SETS if name in flags]
    return f"{platform.machine()}: {', '.join(found) or 'none of ' + ', '.join(INSTRUCTION_SETS)}"

"""Run the kernels' tests on a build of the library with AddressSanitizer and UBSan: make sanitize.

Usage: sanitize.py [arguments of pytest]
       sanitize.py --exec COMMAND...   runs anything with the sanitizers preloaded

Needs g++ (or a CXX that is gcc's) with its sanitizer libraries.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mx_cpu import build

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "build" / "sanitize" / "libmx_cpu.so"
STAMP = LIBRARY.with_suffix(".txt")

TESTS = ("native_casts", "native_linear", "dequantize", "sanitizers")
"""Of tests/backends: those that call kernels at every level."""


def runtime(name: str) -> str:
    """Path of one of the compiler's libraries."""
    command = [*build.find_compiler(), f"-print-file-name={name}"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(path):
        raise build.BuildError(f"{command[0]} has no {name}: install gcc's sanitizer libraries, or set CXX=g++")
    return path


def environment() -> dict[str, str]:
    """What a process needs that loads the library.

    libstdc++ is preloaded too: its ``__cxa_throw`` must be there when AddressSanitizer starts, and torch throws. Leaks
    are not looked for: Python's own would drown them.
    """
    return {
        **os.environ,
        "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libstdc++.so.6')}",
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "MX_CPU_LIBRARY": str(LIBRARY),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
    }


def main(arguments: list[str]) -> int:
    try:
        if arguments[:1] == ["--exec"]:
            return subprocess.run(arguments[1:], env=environment()).returncode
        made_of = " ".join([*build.find_compiler(), *build.SANITIZE, build.source_hash()])
        if not LIBRARY.is_file() or not STAMP.is_file() or STAMP.read_text() != made_of:
            build.compile_library(LIBRARY, build.SANITIZE)
            STAMP.write_text(made_of)
        prepared = environment()
    except build.BuildError as error:
        print(f"sanitize.py: {error}", file=sys.stderr)
        return 1
    files = [f"tests/backends/test_{name}.py" for name in TESTS]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", *files, *arguments]
    return subprocess.run(command, cwd=ROOT, env=prepared).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

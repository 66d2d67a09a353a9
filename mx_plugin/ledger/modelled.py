"""The meter ``modelled``: joules estimated from executed work and a table of published energies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import PluginError, nearest
from ..formats.spec import FP16
from ..interfaces import Measurement, Meter, Work
from .energy_table import AS_EXECUTED, Energy, load_table

_Range = tuple[float, float, float]


class ModelledMeter(Meter):
    """joules = MACs x energy per MAC + bytes x energy per byte of DRAM + cast elements x energy per cast.

    Args:
        table: YAML file that replaces the built-in ``energies.yaml``.
        target: ``as-executed`` takes the energy of the dtype that was really multiplied;
            ``projected:<device>`` takes the device's energy of the *format*, as if the same work had
            run there (bytes and casts stay those that were executed). One target per meter: its name
            is part of the source, so the two never share a total.
        memory: level of the target's ``memory`` that all bytes are charged to; default: its
            ``memory_default``.

    A pair that the device does not list costs what its costlier side costs alone: a unit for both is
    at most as expensive as one for two operands of the wider kind. Transforms (Hadamard) and
    everything outside the table's three terms are not counted: see the target's ``note``.

    Raises:
        PluginError: the table cannot be read, or has no such target or memory.
    """

    name = "modelled"
    scope = "process"

    def __init__(self, table: str | Path | None = None, target: str = AS_EXECUTED, memory: str | None = None) -> None:
        self.table = load_table(table)
        self.target = self.table.target(target)
        self.memory = memory or self.target.memory_default
        if self.memory not in self.target.memory:
            known = nearest(self.memory, self.target.memory)
            raise PluginError(f"{self.table.path}: target {target} has no memory {self.memory!r}: {known}")
        self.source = f"modelled:{target}"

    def end_window(self, name: str) -> Measurement:
        """Nothing is measured: joules None."""
        return Measurement(None, self.source, estimated=True, why="an estimate, not a measurement; see rows")

    def estimate(self, work: Work) -> Measurement:
        """Joules of ``work`` (the table's middle values); None with the missing key if it has none."""
        terms, why = self._terms(work)
        if why:
            return Measurement(None, self.source, estimated=True, why=why)
        domains = {term: joules[1] for term, joules in terms.items()}
        return Measurement(sum(domains.values()), self.source, domains, estimated=True)

    def bounds(self, work: Work) -> _Range | None:
        """(low, mid, high) joules of ``work``: every term at the same end of its range; None if unknown."""
        terms, why = self._terms(work)
        if why:
            return None
        low, mid, high = (sum(joules[i] for joules in terms.values()) for i in range(3))
        return low, mid, high

    def describe(self) -> Mapping[str, Any]:
        """Target, table and memory, with every energy that may be used and where it comes from."""
        return {
            "meter": self.name,
            "target": self.target.name,
            "table": self.table.path.name,
            "memory": self.memory,
            "note": self.target.note,
            "pj_per_mac": {key: energy.mid for key, energy in self.target.mac.items()},
            "pj_per_byte": self.target.memory[self.memory].mid,
            "pj_per_cast": self.target.cast.mid,
        }

    def _terms(self, work: Work) -> tuple[dict[str, _Range], str]:
        terms = {"memory": self.target.memory[self.memory] * work.bytes}
        if work.cast_elements:
            terms["cast"] = self.target.cast * work.cast_elements
        if work.macs:
            mac, why = self._per_mac(work)
            if mac is None:
                return {}, why
            terms["mac"] = mac * work.macs
        return terms, ""

    def _per_mac(self, work: Work) -> tuple[Energy | None, str]:
        keys = _operands(work) if self.target.projected else (work.dtype,)
        pair = "/".join(keys)
        if pair in self.target.mac:
            return self.target.mac[pair], ""
        found: list[Energy] = []
        for key in keys:
            if key not in self.target.mac:
                return None, f"{self.table.path.name} has no targets.{self.target.name}.mac.{key}; add it"
            found.append(self.target.mac[key])
        return max(found, key=lambda energy: energy.mid), ""


def _operands(work: Work) -> tuple[str, ...]:
    """Formats of both operands of a row's ``format``, e.g. ``MXFP4/MXFP8+sr``; dtypes where unquantised."""
    sides = work.format.partition("+")[0].split("/")
    return tuple(_unquantised_dtype(side, work.dtype) for side in sides)


def _unquantised_dtype(side: str, dtype: str) -> str:
    """``FP16[float32]`` names its dtype; plain ``FP16`` has the dtype that was multiplied."""
    if side.partition("[")[0] != FP16:
        return side
    return side.partition("[")[2].rstrip("]") or dtype

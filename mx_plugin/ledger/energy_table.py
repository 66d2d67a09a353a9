"""The table of energies per operation, read and checked: every value has a source and a range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from ..errors import PluginError, nearest

BUILT_IN = Path(__file__).with_name("energies.yaml")
VERSION = 1
KINDS = ("published", "derived")
AS_EXECUTED = "as-executed"
PROJECTED = "projected:"

_ENERGY_KEYS = ("pj", "range", "kind", "source", "derivation")
_TARGET_KEYS = ("note", "mac", "memory", "memory_default", "cast")
_SOURCE_KEYS = ("cite", "where", "node")


@dataclass(frozen=True)
class Energy:
    """Energy of one operation, in picojoules: the value and the range in which it may lie."""

    low: float
    mid: float
    high: float
    kind: str
    source: tuple[str, ...]
    derivation: str = ""

    def __mul__(self, count: int) -> tuple[float, float, float]:
        """(low, mid, high) of ``count`` operations, in joules."""
        return (self.low * count * 1e-12, self.mid * count * 1e-12, self.high * count * 1e-12)


@dataclass(frozen=True)
class Target:
    """What the energies describe: ``mac`` per multiply-accumulate by dtype (and, when projected, by
    format or pair), ``memory`` per byte by level, ``cast`` per quantised element."""

    name: str
    note: str
    mac: Mapping[str, Energy]
    memory: Mapping[str, Energy]
    memory_default: str
    cast: Energy

    @property
    def projected(self) -> bool:
        return self.name.startswith(PROJECTED)


@dataclass(frozen=True)
class EnergyTable:
    """A whole table: its file, the works that it cites, and its targets by name."""

    path: Path
    sources: Mapping[str, Mapping[str, str]]
    targets: Mapping[str, Target]

    def target(self, name: str) -> Target:
        """The target of that name.

        Raises:
            PluginError: no such target; the message names the nearest one.
        """
        if name not in self.targets:
            raise PluginError(f"{self.path}: no energy target {name!r}: {nearest(name, self.targets)}")
        return self.targets[name]


def load_table(path: str | Path | None = None) -> EnergyTable:
    """Read a table (default: the built-in ``energies.yaml``, which documents the layout).

    Raises:
        PluginError: unreadable, not YAML, or a key missing, unknown or out of range; the message names
            the file and the key.
    """
    file = BUILT_IN if path is None else Path(path)
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PluginError(f"cannot read the energy table {file}: {error}") from error
    except yaml.YAMLError as error:
        raise PluginError(f"the energy table {file} is not YAML: {error}") from error
    return _Reader(file).table(data)


class _Reader:
    """Checks while it reads; every complaint names the file and the path of the key."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.sources: dict[str, Mapping[str, str]] = {}

    def table(self, data: Any) -> EnergyTable:
        top = self.mapping(data, "", ("version", "sources", "targets"), required=("version", "sources", "targets"))
        if top["version"] != VERSION:
            self.fail("version", f"is {top['version']!r}, and this mx-plugin reads version {VERSION}")
        for name, source in self.mapping(top["sources"], "sources").items():
            where = f"sources.{name}"
            entry = self.mapping(source, where, _SOURCE_KEYS, required=("cite",))
            self.sources[name] = {k: self.text(v, f"{where}.{k}") for k, v in entry.items()}
        entries = self.mapping(top["targets"], "targets")
        targets = {name: self.target(name, entry) for name, entry in entries.items()}
        return EnergyTable(self.file, self.sources, targets)

    def target(self, name: str, data: Any) -> Target:
        where = f"targets.{name}"
        if name != AS_EXECUTED and not (name.startswith(PROJECTED) and len(name) > len(PROJECTED)):
            self.fail(where, f"is not a target: write {AS_EXECUTED} or {PROJECTED}<device>")
        entry = self.mapping(data, where, _TARGET_KEYS, required=("mac", "memory", "cast"))
        mac = self.energies(entry["mac"], f"{where}.mac")
        memory = self.energies(entry["memory"], f"{where}.memory")
        default = entry.get("memory_default", next(iter(memory)))
        if default not in memory:
            self.fail(f"{where}.memory_default", f"is {default!r}: {nearest(str(default), memory)}")
        cast = self.energy(entry["cast"], f"{where}.cast")
        return Target(name, self.text(entry.get("note", ""), f"{where}.note"), mac, memory, default, cast)

    def energies(self, data: Any, where: str) -> dict[str, Energy]:
        entries = self.mapping(data, where)
        if not entries:
            self.fail(where, "is empty; give at least one energy")
        return {name: self.energy(entry, f"{where}.{name}") for name, entry in entries.items()}

    def energy(self, data: Any, where: str) -> Energy:
        entry = self.mapping(data, where, _ENERGY_KEYS, required=("pj", "range", "kind", "source"))
        mid = self.number(entry["pj"], f"{where}.pj")
        span = entry["range"]
        if not isinstance(span, list) or len(span) != 2:
            self.fail(f"{where}.range", f"is {span!r}; write [low, high] in pJ")
        low, high = (self.number(value, f"{where}.range") for value in span)
        if not low <= mid <= high:
            self.fail(f"{where}.range", f"is [{low}, {high}] and does not contain pj: {mid}")
        kind = entry["kind"]
        if kind not in KINDS:
            self.fail(f"{where}.kind", f"is {kind!r}: {nearest(str(kind), KINDS)}")
        derivation = self.text(entry.get("derivation", ""), f"{where}.derivation")
        if kind == "derived" and not derivation:
            self.fail(f"{where}.derivation", "is missing: a derived energy says from what and how")
        return Energy(low, mid, high, kind, self.cited(entry["source"], f"{where}.source"), derivation)

    def cited(self, data: Any, where: str) -> tuple[str, ...]:
        names = [data] if isinstance(data, str) else data
        if not isinstance(names, list) or not names:
            self.fail(where, f"is {data!r}; name at least one entry of sources")
        for name in names:
            if name not in self.sources:
                self.fail(where, f"cites {name!r}, which is not in sources: {nearest(str(name), self.sources)}")
        return tuple(names)

    def mapping(
        self, data: Any, where: str, known: tuple[str, ...] = (), required: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        if not isinstance(data, dict):
            self.fail(where, f"is {type(data).__name__}; a mapping is expected")
        for key in data:
            if not isinstance(key, str) or (known and key not in known):
                self.fail(f"{where}.{key}".lstrip("."), f"is not a known key: {nearest(str(key), known)}")
        for key in required:
            if key not in data:
                self.fail(f"{where}.{key}".lstrip("."), "is missing")
        return dict(data)

    def number(self, value: Any, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            self.fail(where, f"is {value!r}; a finite number of picojoules, 0 or more, is expected")
        return float(value)

    def text(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            self.fail(where, f"is {value!r}; text is expected")
        return value

    def fail(self, where: str, what: str) -> NoReturn:
        raise PluginError(f"energy table {self.file}: {where or 'the file'} {what}")

"""Which plugins are installed, and which of them the environment lets in - before any is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions

from .errors import nearest
from .plugin_record import DISABLED, PluginRecord, log

GROUP = "mx_plugin"
"""The entry-point group of every plugin, ours included."""

OURS = "mx-plugin"
CORE = "core"

LOAD, DISABLE = "MX_PLUGIN_LOAD", "MX_PLUGIN_DISABLE"


@dataclass(frozen=True)
class Candidate:
    """An entry point that may be loaded, and the record that tells what became of it."""

    entry_point: EntryPoint
    record: PluginRecord


def find_candidates() -> tuple[list[Candidate], list[PluginRecord]]:
    """All entry points of the group, ours first; and records of those not to be loaded.

    ``MX_PLUGIN_LOAD`` (comma-separated names) lets in only those, and ``core``;
    ``MX_PLUGIN_DISABLE`` keeps out those, ``core`` too if named. Empty means unset. A name that is
    not installed is logged with the nearest that is.
    """
    allowed, denied = names_in(LOAD), names_in(DISABLE)
    candidates: list[Candidate] = []
    left_out: list[PluginRecord] = []
    for candidate in sorted(_installed(left_out), key=_ours_first):
        record = candidate.record
        if record.name in denied:
            record.status, record.error = DISABLED, f"named in {DISABLE}"
        elif allowed and record.name not in allowed and record.name != CORE:
            record.status, record.error = DISABLED, f"not named in {LOAD}"
        if record.status == DISABLED:
            left_out.append(record)
        else:
            candidates.append(candidate)
    found = [r.name for r in left_out] + [c.record.name for c in candidates]
    _warn_of_strangers(LOAD, allowed, found)
    _warn_of_strangers(DISABLE, denied, found)
    return candidates, left_out


def names_in(variable: str) -> set[str]:
    """The comma-separated names in an environment variable; blanks are ignored."""
    return {name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()}


def _installed(unreadable: list[PluginRecord]) -> Iterator[Candidate]:
    """Entry points by distribution: malformed metadata of one must not hide the others."""
    seen: set[str] = set()
    for distribution in distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
        except (OSError, UnicodeDecodeError):
            continue  # unreadable metadata of a distribution that nobody has shown to be a plugin
        if GROUP not in text:
            continue
        name = _name_of(distribution)
        # A distribution met twice (a second copy later on sys.path) is shadowed by the first, as in importing.
        if _normalized(name) in seen:
            continue
        seen.add(_normalized(name))
        try:
            points = [point for point in distribution.entry_points if point.group == GROUP]
        except Exception as error:
            record = PluginRecord(name, name, _version_of(distribution))
            record.broke("entry_points.txt", error)
            unreadable.append(record)
            continue
        for point in points:
            yield Candidate(point, PluginRecord(point.name, name, _version_of(distribution)))


def _ours_first(candidate: Candidate) -> tuple[bool, str, str]:
    """A fixed order, so that of two plugins with one name the same one wins every time."""
    record = candidate.record
    return _normalized(record.distribution) != OURS, record.distribution.casefold(), record.name


def _name_of(distribution: Distribution) -> str:
    return _metadata(distribution, "Name") or f"unnamed distribution in {distribution.locate_file('')}"


def _version_of(distribution: Distribution) -> str:
    return _metadata(distribution, "Version")


def _metadata(distribution: Distribution, key: str) -> str:
    """One field of METADATA; empty where the file is missing (Python versions differ in how they say so)."""
    try:
        return str(distribution.metadata[key] or "")
    except Exception:
        return ""


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _warn_of_strangers(variable: str, names: Iterable[str], found: list[str]) -> None:
    for name in sorted(set(names) - set(found)):
        log.warning("%s names %r, which is not installed: %s", variable, name, nearest(name, found))

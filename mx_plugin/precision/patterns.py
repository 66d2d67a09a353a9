"""How a policy names layers: a glob pattern, or an exact prefix that covers everything below it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

_GLOB = re.compile(r"[*?\[]")


def is_glob(pattern: str) -> bool:
    """True when the pattern holds a wildcard: ``*``, ``?`` or ``[``."""
    return _GLOB.search(pattern) is not None


def matches(pattern: str, name: str) -> bool:
    """True when a layer of that dotted name is meant.

    A glob must match the whole name (case-sensitive; ``*`` crosses dots); a pattern without
    wildcards means the module of that name and everything below it: ``model.layers.1`` covers
    ``model.layers.1.mlp`` and not ``model.layers.10``.
    """
    if is_glob(pattern):
        return fnmatchcase(name, pattern)
    return name == pattern or name.startswith(pattern + ".")


def names_lm_head(pattern: str) -> bool:
    """True when the pattern's last component spells out ``lm_head`` (``*.lm_head`` does, ``*`` does not)."""
    return pattern.rpartition(".")[2].endswith("lm_head")


def prefixes(names: Iterable[str]) -> set[str]:
    """All names together with the names of every module above them."""
    found: set[str] = set()
    for name in names:
        while name and name not in found:
            found.add(name)
            name = name.rpartition(".")[0]
    return found


def nearest_layer(pattern: str, names: Iterable[str]) -> str:
    """Words for an error: the module or layer whose name is closest to a pattern that matched none."""
    layers = list(names)
    if not layers:
        return "no layer was adopted"
    bare = _GLOB.sub("", pattern)
    close = get_close_matches(bare, sorted(prefixes(layers)), n=1, cutoff=0.4)
    if not close:
        # "*.q_proj" resembles no whole name, but perhaps the last part of one.
        by_tail = {_tail(name): name for name in reversed(layers)}
        close = [by_tail[tail] for tail in get_close_matches(_tail(bare), by_tail, n=1)]
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}The {len(layers)} adopted layers: {first_five(layers)}"


def _tail(name: str) -> str:
    return name.rpartition(".")[2]


def first_five(names: Iterable[str]) -> str:
    """``a, b, c, d, e, ... (7 more)``."""
    listed = list(names)
    rest = len(listed) - 5
    return ", ".join(listed[:5]) + (f", ... ({rest} more)" if rest > 0 else "")

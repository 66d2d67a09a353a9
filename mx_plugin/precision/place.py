"""Where in a policy file a value stands, so that an error can say so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from reprlib import repr as short_repr
from typing import Any

import yaml

from ..errors import PolicyError, nearest

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """A key path within a file; ``lines`` maps the paths of the file to line numbers."""

    source: str
    lines: Mapping[KeyPath, int]
    path: KeyPath = ()

    def at(self, key: str | int) -> Place:
        """The place of a key or list item below this one."""
        return replace(self, path=(*self.path, key))

    def __str__(self) -> str:
        line = next((self.lines[p] for p in self._upwards() if p in self.lines), None)
        where = self.source if line is None else f"{self.source}:{line}"
        dotted = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in self.path).lstrip(".")
        return f"{where}: {dotted}" if dotted else where

    def _upwards(self) -> list[KeyPath]:
        return [self.path[:n] for n in range(len(self.path), -1, -1)]

    def error(self, message: str) -> PolicyError:
        """An error that names this place."""
        return PolicyError(f"{self}: {message}")

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Errors about a value name this place."""
        try:
            yield
        except PolicyError as error:
            raise self.error(str(error)) from None

    def mapping(self, value: object, known: tuple[str, ...]) -> dict[str, Any]:
        """The value as a mapping with known keys only."""
        if not isinstance(value, Mapping):
            raise self.error(f"expected a mapping with keys {', '.join(known)}, found {short_repr(value)}")
        for key in value:
            if key not in known:
                raise self.at(str(key)).error(f"unknown key {short_repr(key)}: {nearest(str(key), known)}")
        return dict(value)

    def words(self, value: object) -> tuple[str, ...]:
        """The value, a text or a list of texts, as a tuple."""
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise self.error(f"expected text or a list of texts, found {short_repr(value)}")
        return tuple(items)


def key_lines(text: str, source: str) -> dict[KeyPath, int]:
    """Line number of each key and list item of a YAML text.

    Raises:
        PolicyError: a key that occurs twice in one mapping, which YAML readers pass over in silence.
        yaml.YAMLError: syntax.
    """
    lines: dict[KeyPath, int] = {}
    seen: set[int] = set()
    todo: list[tuple[KeyPath, yaml.Node | None]] = [((), yaml.compose(text, Loader=yaml.SafeLoader))]
    while todo:
        path, node = todo.pop()
        # Aliases may repeat a node without end; where it first stands is enough for a message.
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        for key, mark, child in _children(node):
            below = (*path, key)
            if below in lines and isinstance(node, yaml.MappingNode):
                raise PolicyError(f"{source}:{mark + 1}: key {key!r} is there twice (first on line {lines[below]})")
            lines[below] = mark + 1
            todo.append((below, child))
    return lines


def _children(node: yaml.Node) -> list[tuple[str | int, int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        return [(str(key.value), key.start_mark.line, child) for key, child in node.value]
    if isinstance(node, yaml.SequenceNode):
        return [(index, child.start_mark.line, child) for index, child in enumerate(node.value)]
    return []

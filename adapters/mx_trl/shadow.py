"""Attributes of one object - a trainer, an engine, a model - replaced while a run lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def shadowed(owner: Any, replacements: Mapping[str, Any]) -> Iterator[None]:
    """Instance attributes in the place of what the class (or an earlier replacement) has; put back at the end."""
    before = {name: owner.__dict__[name] for name in replacements if name in owner.__dict__}
    try:
        owner.__dict__.update(replacements)
        yield
    finally:
        for name in replacements:
            if name in before:
                owner.__dict__[name] = before[name]
            else:
                owner.__dict__.pop(name, None)


Method = Callable[..., Any]

"""The public surface as text: one line for each name, with its signature. ``python -m tests.plugins.public_surface``
writes public_surface.txt anew (`make surface`); it refuses to drop or change a line unless the interface's major rose.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from difflib import unified_diff
from importlib import import_module
from pathlib import Path
from typing import Any

from mx_plugin.hookspecs import INTERFACE_VERSION

STORED = Path(__file__).with_name("public_surface.txt")
MODULES = (
    "mx_plugin",
    "mx_plugin.hookspecs",
    "mx_plugin.interfaces",
    "mx_plugin.errors",
    "mx_plugin.plugins",
    "mx_plugin.formats",
    "mx_plugin.precision",
    "mx_plugin.interface_version",
    "mx_plugin.testing",
    "mx_trl",
    "mx_trl.testing",
    "mx_fpga.testing",
)
OURS = tuple(sorted({module.partition(".")[0] for module in MODULES}))


def surface() -> list[str]:
    """Every public name of ``MODULES``; what an adapter's own base class from a framework has is not ours to keep."""
    lines: list[str] = []
    places: dict[int, str] = {}
    for module_name in MODULES:
        module = import_module(module_name)
        for name in public_names(module):
            place, value = f"{module_name}.{name}", getattr(module, name)
            first = places.setdefault(id(value), place) if callable(value) else place
            lines += described(place, value) if first == place else [f"{place} is {first}"]
    return sorted(lines)


def public_names(module: Any) -> list[str]:
    """``__all__``; without it, what is defined in the module itself and does not begin with ``_``."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def described(place: str, value: Any) -> list[str]:
    """A line for a function or constant, one for a class and one for each public member of it."""
    if inspect.isclass(value) and value.__module__.partition(".")[0] in OURS:
        return described_class(place, value)
    if inspect.isroutine(value):
        return [f"{place}{inspect.signature(value)}{retired(value)}"]
    if isinstance(value, str | int | float | tuple):
        # Values may grow (another built-in name); that the name is there, and what it is, is the promise.
        return [f"{place}: {type(value).__name__}"]
    return [f"{place} = {value!r}" if " at 0x" not in repr(value) else f"{place}: {type(value).__name__}"]


def described_class(place: str, cls: type) -> list[str]:
    bases = [base.__name__ for base in cls.__bases__ if base is not object]
    lines = [f"class {place}({', '.join(bases)})"]
    fields = {field.name: field for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
    written = as_written(cls)
    lines += [f"{place}.{name}: {written[name]}{default(field)}" for name, field in fields.items()]
    told = set(fields)
    for owner in cls.__mro__:
        if owner.__module__.partition(".")[0] not in OURS:
            continue
        for name, member in vars(owner).items():
            if name in told or (name.startswith("_") and name != "__init__"):
                continue
            told.add(name)
            if name == "__init__" and (fields or member is not cls.__init__):
                continue
            lines += described_member(f"{place}.{name}", member)
    return lines


def as_written(cls: type) -> dict[str, str]:
    """Annotations as the source has them: parsers of transformers put classes into ``field.type`` in place of names."""
    written: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        written |= vars(owner).get("__annotations__", {})
    return written


def described_member(place: str, member: Any) -> list[str]:
    if isinstance(member, property):
        return [f"{place} (property) -> {inspect.signature(member.fget).return_annotation}"]  # type: ignore[arg-type]
    if isinstance(member, classmethod | staticmethod):
        return [f"{place}{inspect.signature(member.__func__)} ({type(member).__name__})"]
    if inspect.isfunction(member):
        abstract = " (abstract)" if getattr(member, "__isabstractmethod__", False) else ""
        return [f"{place}{inspect.signature(member)}{abstract}{retired(member)}"]
    if inspect.isclass(member) or not callable(member):
        return [f"{place}: {type(member).__name__}"]
    return [place]


def default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f" = {field.default!r}"
    return "" if field.default_factory is dataclasses.MISSING else " = (made anew)"


def retired(value: Any) -> str:
    return f"  # {value.__deprecated__}" if hasattr(value, "__deprecated__") else ""


# ---------------------------------------------------------------------------- stored


def stored() -> tuple[tuple[int, int], list[str]]:
    """The interface version that the stored list was written for, and its lines."""
    head, *lines = STORED.read_text(encoding="utf-8").splitlines()
    major, minor = head.removeprefix("# interface ").split(".")
    return (int(major), int(minor)), lines


def changes(before: list[str], now: list[str]) -> tuple[list[str], list[str]]:
    """(what is gone or changed, what is new), both sorted."""
    return sorted(set(before) - set(now)), sorted(set(now) - set(before))


def explained(gone: list[str], new: list[str]) -> str:
    """What a developer reads who changed the surface."""
    diff = [line for line in unified_diff(gone, new, lineterm="", n=0) if not line.startswith(("---", "+++", "@@"))]
    advice = (
        "A name that is gone or whose signature changed breaks plugins: bring it back, deprecate it "
        "(mx_plugin.interface_version), or raise the major of INTERFACE_VERSION."
        if gone
        else "Names were added: raise the minor of INTERFACE_VERSION once the last one is released."
    )
    return "\n".join(["the public surface changed:", *diff, advice, "Then: make surface"])


def main(arguments: list[str]) -> int:
    now = surface()
    if STORED.exists() and "--unreleased" not in arguments:
        version, before = stored()
        gone, new = changes(before, now)
        if gone and INTERFACE_VERSION[0] == version[0]:
            print(explained(gone, new), file=sys.stderr)
            print("refused; before the first release: make surface ARGS=--unreleased", file=sys.stderr)
            return 1
    head = f"# interface {INTERFACE_VERSION[0]}.{INTERFACE_VERSION[1]}"
    STORED.write_text("\n".join([head, *now]) + "\n", encoding="utf-8")
    print(f"{STORED.name}: {len(now)} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""From the templates of one kind to a folder that can be installed."""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from ..errors import PluginError
from ..hookspecs import INTERFACE_VERSION
from .names import PluginNames

KINDS = {
    "backend": "executes MX linear layers",
    "board": "an FPGA at a serial URL that needs more than the protocol",
    "provider": "chooses each layer's formats",
    "meter": "reads energy",
}
"""What can be written, and what it is."""

_SUFFIX = ".tmpl"
_TARGET = {"backend": "{cls}Backend.multiply", "board": "prepare", "provider": "{cls}Provider.format_of",
           "meter": "{cls}Meter.read_joules"}  # fmt: skip


def to_fill_in(kind: str, names: PluginNames) -> str:
    """The one method that its author replaces, e.g. ``AcmeBackend.multiply``."""
    return _TARGET[kind].format(cls=names.cls)


def write_package(kind: str, names: PluginNames, output: Path) -> Path:
    """Write ``output/<distribution>``, whole or not at all; return it.

    Raises:
        PluginError: the folder exists, or cannot be written.
    """
    folder = output / names.distribution
    if folder.exists() or folder.is_symlink():
        raise PluginError(f"{folder} exists and is left as it is: move it away, or choose --output DIR")
    texts = {place: text for where in ("common", kind) for place, text in _rendered(where, kind, names).items()}
    try:
        output.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{names.distribution}-", dir=output))
        try:
            for place, text in texts.items():
                file = scratch / place
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            scratch.chmod(0o777 & ~_umask())  # mkdtemp's are for the user alone
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise PluginError(f"{folder} cannot be written ({error}): choose another --output DIR") from error
    return folder


def _rendered(where: str, kind: str, names: PluginNames) -> dict[str, str]:
    """Texts by place in the package; ``module`` in a place stands for the module's name."""
    words = {
        "kind": kind,
        "name": names.name,
        "distribution": names.distribution,
        "module": names.module,
        "cls": names.cls,
        "interface": repr(INTERFACE_VERSION),
        "fill_in": to_fill_in(kind, names),
    }
    root = files(__package__) / "templates" / where
    return {
        place.replace("/module/", f"/{names.module}/"): Template(file.read_text("utf-8")).substitute(words)
        for place, file in _walk(root, "")
    }


def _walk(folder: Traversable, place: str) -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            found += _walk(entry, f"{place}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            found.append((place + entry.name.removesuffix(_SUFFIX), entry))
    return found


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

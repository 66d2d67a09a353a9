"""The rooms of the house and who imports whom, read from the code by grimp (which import-linter stands on)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import grimp

_PROJECT = Path(__file__).parents[2] / "pyproject.toml"
PACKAGES = tuple(tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["tool"]["importlinter"]["root_packages"])
"""Those among which the dependency rule is held."""


@dataclass(frozen=True)
class Room:
    """One bar of the picture. ``modules``: full names; what lies below one belongs to it."""

    name: str
    band: str
    about: str
    modules: tuple[str, ...]


def _core(name: str, about: str, *modules: str) -> Room:
    return Room(name, "core: mx_plugin", about, tuple(f"mx_plugin.{module}" for module in modules or (name,)))


ROOMS = (
    Room("mx_trl", "adapters", "TRL and any transformers.Trainer: callback, stages, observers", ("mx_trl",)),
    Room("mx_openrlhf", "adapters", "OpenRLHF on Ray: launcher, actors, weights in vLLM", ("mx_openrlhf",)),
    Room("mx_vllm", "adapters", "vLLM for both: its own MX formats, its modules, reloads", ("mx_vllm",)),
    _core("builtin", "what the core registers, through the hooks that a third party's plugin uses"),
    _core("cli", "mx-plugin: from the command line to the subcommand that a plugin registered", "cli", "__main__"),
    _core("scaffold", "mx-plugin new: packages with a plugin that works, to be filled in"),
    _core("testing", "the test kit for backends, meters, providers and boards"),
    _core("report", "what folders hold, as one HTML page; heat-maps"),
    _core("experiments", "plan, runs in processes, controls; intervals, noise floor, verdicts"),
    _core("sensitivity", "what each format costs in quality, per layer, phase and role"),
    _core("precision", "policies, matrices, search, the provider that answers from them"),
    _core("execution", "phases, adoption, routes, products, packing, release, freshness, hits"),
    _core("ledger", "windows of time, energy rows, meters, the run folder's files"),
    Room(
        "interfaces", "core: mx_plugin", "the doors for plugins: hookspecs, interfaces, discovery; the public names",
        (
            "mx_plugin", "mx_plugin.interfaces", "mx_plugin.interface_version", "mx_plugin.hookspecs",
            "mx_plugin.plugins", "mx_plugin.plugin_host", "mx_plugin.plugin_discovery", "mx_plugin.plugin_record",
        ),
    ),
    _core("formats", "what a format is; the reference cast; packed tensors; Philox; Hadamard"),
    _core(
        "errors, config", "errors, configuration, checks, benches, atomic files",
        "errors", "config", "check", "bench", "atomic", "_version",
    ),
    Room("mx_cpu", "hardware", "native CPU kernels beside the reference in plain torch", ("mx_cpu",)),
    Room("mx_cuda", "hardware", "GPU backend over Triton, torch and torchao kernels", ("mx_cuda",)),
    Room("mx_fpga", "hardware", "the host's side of a board: link, protocol, simulator", ("mx_fpga",)),
)  # fmt: skip
"""From top to bottom. A room of the core that nobody has built yet is left out of the picture."""


@dataclass(frozen=True)
class Import:
    """One room imports another; ``typing_only``: under TYPE_CHECKING alone, so that no module is loaded for it."""

    importer: str
    imported: str
    typing_only: bool = False


def room_of(module: str) -> Room:
    """The room of a module.

    Raises:
        LookupError: it belongs to none: ROOMS must name it.
    """
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        for room in ROOMS:
            # The core's own name stands for itself only, or a new room would slip into the doors.
            if prefix in room.modules and (prefix != "mx_plugin" or length == len(parts)):
                return room
    raise LookupError(f"{module} belongs to no room: add it to ROOMS in docs/plots/rooms.py")


def built_rooms() -> list[Room]:
    """Those of which a module exists."""
    modules = _graph(typing=True).modules
    there = {room_of(module) for module in modules}
    return [room for room in ROOMS if room in there]


def imports() -> list[Import]:
    """Every import between two rooms, once, in the order of ROOMS."""
    everything, loaded = _edges(_graph(typing=True)), _edges(_graph(typing=False))
    order = [room.name for room in ROOMS]
    found = [Import(a, b, typing_only=(a, b) not in loaded) for a, b in everything]
    return sorted(found, key=lambda one: (order.index(one.importer), order.index(one.imported)))


def _graph(typing: bool) -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=not typing, cache_dir=None)


def _edges(graph: grimp.ImportGraph) -> set[tuple[str, str]]:
    found = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            edge = room_of(module).name, room_of(imported).name
            if edge[0] != edge[1]:
                found.add(edge)
    return found

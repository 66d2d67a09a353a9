"""The plugins of a process: loaded one by one, asked one by one, so that a broken one stops no other."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from types import ModuleType
from typing import Any, Protocol, TypeVar

import pluggy

from . import hookspecs
from .errors import PluginError, nearest
from .hookspecs import PROJECT
from .interface_version import newer_minor, version_mismatch
from .plugin_discovery import CORE, Candidate, find_candidates
from .plugin_record import BROKEN, REFUSED, PluginRecord

TRACE = "MX_PLUGIN_TRACE"

HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("mx_register_"))


class Named(Protocol):
    """Anything registered: it has a name, which is taken once, and the plugin it came from."""

    @property
    def name(self) -> str: ...

    @property
    def plugin(self) -> PluginRecord: ...


N = TypeVar("N", bound=Named)

MakeRegister = Callable[[PluginRecord, list[N]], Callable[..., None]]
"""``(record, found) -> register``: the callable handed to one plugin's hook; it appends to ``found``."""


class PluginHost:
    """Loads plugins and calls their hooks. Nothing is imported before :meth:`load`."""

    def __init__(self) -> None:
        self.records: list[PluginRecord] = []
        self.lock = RLock()
        self._manager = _new_manager()
        self._registries: dict[str, dict[str, Any]] = {}
        self._loaded = False

    # ------------------------------------------------------------------ loading

    def load(self) -> None:
        """Import every entry point that the environment lets in; idempotent."""
        with self.lock:
            if self._loaded:
                return
            # Set first: a plugin that asks for another one while it is imported finds those before it.
            self._loaded = True
            try:
                candidates, left_out = find_candidates()
                self.records.extend(left_out)
                for candidate in candidates:
                    self.records.append(candidate.record)
                    self._load_one(candidate)
            except BaseException:  # interrupted by the user: half a set of plugins must not pass for the whole
                self._loaded = False
                self.records.clear()
                self._manager = _new_manager()
                raise

    def packages(self) -> list[str]:
        """Top-level packages of the plugins loaded so far; loads none."""
        with self.lock:
            plugins = [record.plugin for record in self.records if record.plugin is not None]
        modules = [plugin.__name__ if isinstance(plugin, ModuleType) else plugin.__module__ for plugin in plugins]
        return sorted({module.partition(".")[0] for module in modules})

    def _load_one(self, candidate: Candidate) -> None:
        point, record = candidate.entry_point, candidate.record
        with traced(f"import {point.value} ({record.name})"):
            try:
                plugin = point.load()
                declared = getattr(plugin, "MX_PLUGIN_INTERFACE", None)
                if declared is None:  # the entry point may be an object in the module that declares it
                    declared = getattr(sys.modules.get(point.module), "MX_PLUGIN_INTERFACE", None)
            except (Exception, SystemExit) as error:
                record.broke("import", error)
                return
        self._admit(plugin, record, declared)

    def add(self, plugin: object, name: str) -> PluginRecord:
        """Take a plugin object; one added before under the same name is replaced.

        Raises:
            PluginError: the plugin is broken or written for another interface version.
        """
        self.load()
        with self.lock:
            self.remove(name)
            record = PluginRecord(name)
            self.records.append(record)
            self._admit(plugin, record, getattr(plugin, "MX_PLUGIN_INTERFACE", None))
            if record.status != "ok":
                self._forget(record)
                raise PluginError(f"{record} is {record.status}: {record.error}")
            return record

    def remove(self, name: str) -> None:
        """Forget what was added under that name; installed plugins stay."""
        with self.lock:
            for record in [r for r in self.records if r.name == name and not r.distribution]:
                self._forget(record)

    def _forget(self, record: PluginRecord) -> None:
        self.records.remove(record)
        if record.plugin is not None:
            self._manager.unregister(record.plugin)
        for registry in self._registries.values():
            for name in [n for n, thing in registry.items() if thing.plugin is record]:
                del registry[name]

    def _admit(self, plugin: object, record: PluginRecord, declared: object) -> None:
        """Check the version, hand the plugin to pluggy, check that every hook is one that we call."""
        why = version_mismatch(declared)
        if why:
            record.refuse(why)
            return
        # Two distributions may use one entry-point name; pluggy's own name must be unique.
        unique = f"{record.distribution}:{record.name}"
        try:
            hash(plugin)
            self._manager.register(plugin, unique)
            unknown = self._unknown_hooks(plugin)
        except Exception as error:
            record.broke("registration", error)
            return
        newer = newer_minor(declared)
        if unknown:
            self._manager.unregister(name=unique)
            why = f"{newer}, or mark the hook @hookimpl(optionalhook=True)" if newer else nearest(unknown[0], HOOKS)
            record.broke("registration", PluginError(f"unknown hook {unknown[0]!r}: {why}"))
            return
        record.plugin = plugin
        if newer:
            record.note(newer)
        for message in self._deprecated_hooks(plugin):
            record.note(message)
        for hook in HOOKS:
            if callable(getattr(plugin, hook, None)) and not self._calls(plugin, hook):
                record.note(f"{hook} lacks the decorator @mx_plugin.hookimpl, so it is never called")

    def _unknown_hooks(self, plugin: object) -> list[str]:
        callers = self._manager.get_hookcallers(plugin) or []
        return [
            caller.name
            for caller in callers
            if not caller.has_spec()
            and any(impl.plugin is plugin and not impl.optionalhook for impl in caller.get_hookimpls())
        ]

    def _deprecated_hooks(self, plugin: object) -> list[str]:
        """pluggy has warned where the hook is written; a user who never sees Python's warnings reads it here."""
        callers = self._manager.get_hookcallers(plugin) or []
        return [str(caller.spec.warn_on_impl) for caller in callers if caller.spec and caller.spec.warn_on_impl]

    def _calls(self, plugin: object, hook: str) -> bool:
        return any(impl.plugin is plugin for impl in getattr(self._manager.hook, hook).get_hookimpls())

    # ------------------------------------------------------------------ registries

    def registry(self, kind: str, make_register: MakeRegister[N], *, again: bool = False) -> dict[str, N]:
        """Everything registered of one kind, by name; each plugin is asked once, or ``again``."""
        self.load()
        with self.lock:
            if again:
                self._registries.pop(kind, None)
            registry = self._registries.setdefault(kind, {})
            for record in self.records:
                if record.plugin is None or (kind in record.registered and not again):
                    continue
                record.registered[kind] = []
                for thing in self._ask(record, kind, make_register):
                    self._add(registry, kind, thing)
            return registry

    def _ask(self, record: PluginRecord, kind: str, make_register: MakeRegister[N]) -> list[N]:
        """Call one plugin's hook; what a hook registered before it failed is dropped."""
        hook = f"mx_register_{kind}"
        if not self._calls(record.plugin, hook):
            return []
        found: list[N] = []
        others = [r.plugin for r in self.records if r.plugin is not None and r.plugin is not record.plugin]
        with traced(f"{hook} of {record.name}"):
            try:
                self._manager.subset_hook_caller(hook, others)(register=make_register(record, found))
            except (Exception, SystemExit) as error:
                record.broke(hook, error)
                return []
        return found

    def _add(self, registry: dict[str, N], kind: str, thing: N) -> None:
        first = registry.setdefault(thing.name, thing)
        if first is thing:
            thing.plugin.registered[kind].append(thing.name)
        else:
            thing.plugin.note(f"{kind}: the name {thing.name!r} is taken by {first.plugin}, which stays")

    # ------------------------------------------------------------------ what is wrong

    def troubles(self) -> str:
        """One sentence on plugins that are not there although installed; empty when all is well."""
        bad = [f"{r} ({r.status}: {r.error})" for r in self.records if r.status in (BROKEN, REFUSED)]
        off = [f"{r.name} ({r.error})" for r in self.records if r.status == "disabled"]
        parts = [f"Not working: {'; '.join(bad)} - see `mx-plugin plugins`."] if bad else []
        parts += [f"Disabled: {', '.join(off)}."] if off else []
        if not any(r.name == CORE and r.distribution for r in self.records):
            parts.append("mx-plugin's own plugins were not found: install it (in its checkout: pip install -e .).")
        return " ".join(parts)


def _new_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


@contextmanager
def traced(what: str) -> Iterator[None]:
    """With ``MX_PLUGIN_TRACE=1``, print what is called and how long it took to stderr."""
    if os.environ.get(TRACE, "0").strip() in ("", "0"):
        yield
        return
    print(f"mx_plugin trace: {what}", file=sys.stderr)
    started = time.perf_counter()
    try:
        yield
    finally:
        print(f"mx_plugin trace: {what}: {1e3 * (time.perf_counter() - started):.1f} ms", file=sys.stderr)

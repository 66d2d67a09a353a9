"""Plugins as the rest of the house sees them: what is installed, by kind, and how to make one.

Plugins are found through the entry-point group ``mx_plugin`` when the first of these functions is
called, never at ``import mx_plugin``. They are ordinary code and run with your rights: nothing here
is a sandbox. The environment decides before anything is imported: ``MX_PLUGIN_LOAD`` (a list of the
only ones to load, beside ``core``), ``MX_PLUGIN_DISABLE``; ``MX_PLUGIN_TRACE=1`` prints every import and
hook call to stderr.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any

from .errors import PluginError, nearest
from .interface_version import newer_minor, overridden_deprecated, version_mismatch
from .plugin_host import PluginHost
from .plugin_record import PluginRecord

if TYPE_CHECKING:
    from .bench import Rows
    from .execution.layer_types import LayerType
    from .interfaces import Backend, Check, Meter, Provider
    from .sensitivity.policy_costs import PolicyCosts


@dataclass(frozen=True)
class Registration:
    """A factory that a plugin registered under a name."""

    name: str
    factory: Callable[..., Any]
    summary: str
    plugin: PluginRecord


@dataclass(frozen=True)
class RegisteredLayerType:
    """A layer type; ``name`` is its class's, in full."""

    name: str
    layer_type: LayerType
    plugin: PluginRecord


@dataclass(frozen=True)
class RegisteredCheck:
    """A check for ``mx-plugin doctor``."""

    name: str
    function: Callable[[], list[Check]]
    plugin: PluginRecord


@dataclass(frozen=True)
class Command:
    """A subcommand of ``mx-plugin``."""

    name: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    summary: str
    plugin: PluginRecord


@dataclass(frozen=True)
class RegisteredBench:
    """A bench of ``mx-plugin bench``."""

    name: str
    rows: Rows
    add_arguments: Callable[[argparse.ArgumentParser], None] | None
    summary: str
    plugin: PluginRecord


@dataclass(frozen=True)
class RegisteredPolicyMeasure:
    """What measures the costs of whole policies for ``mx-plugin policy search --verify``."""

    name: str
    open: Callable[[argparse.Namespace], AbstractContextManager[PolicyCosts]]
    add_arguments: Callable[[argparse._ActionsContainer], None] | None
    summary: str
    plugin: PluginRecord


_lock = RLock()
_the_host: PluginHost | None = None


def _host() -> PluginHost:
    global _the_host
    with _lock:
        if _the_host is None:
            _the_host = PluginHost()
        return _the_host


def reset() -> None:
    """Forget all plugins; the next question loads them anew (for tests)."""
    global _the_host
    with _lock:
        _the_host = None


def register(plugin: object, name: str | None = None) -> PluginRecord:
    """Take ``plugin``, a module or object with ``@hookimpl`` functions, without installing it.

    For notebooks and tests. A plugin registered so under the same ``name`` (default: the module's or
    class's name) is replaced, so that a cell can be run again.

    Raises:
        PluginError: it is broken or written for another interface version.
    """
    if name is None:
        name = str(getattr(plugin, "__name__", None) or type(plugin).__name__)
    return _host().add(plugin, name)


def unregister(name: str) -> None:
    """Forget the plugin that :func:`register` took under that name, and what it registered; no error if none was."""
    _host().remove(name)


def plugin_report() -> list[PluginRecord]:
    """Every installed plugin: origin, status, what it registered and what is wrong with it.

    Asks for everything but layer types: their classes may need frameworks, so they are listed once a
    model has been adopted or :func:`layer_types` was called.
    """
    for ask in (
        providers, backends, meters, boards, judges, alert_hooks, checks, commands, benches, policy_measures,
        conformance,
    ):  # fmt: skip
        ask()
    return list(_host().records)


def packages() -> list[str]:
    """Top-level packages of the plugins loaded so far; loads none. Their loggers belong to a run."""
    return _host().packages()


# ---------------------------------------------------------------------------- registries


def providers() -> Mapping[str, Registration]:
    """Precision providers by name."""
    return _factories("providers")


def backends() -> Mapping[str, Registration]:
    """Backends by name."""
    return _factories("backends")


def meters() -> Mapping[str, Registration]:
    """Energy meters by name."""
    return _factories("meters")


def boards() -> Mapping[str, Registration]:
    """Boards by name; ``factory(url, **options)``."""
    return _factories("boards")


def judges() -> Mapping[str, Registration]:
    """Judges of experiments by name."""
    return _factories("judges")


def alert_hooks() -> Mapping[str, Registration]:
    """What alert rules may call, by name; ``factory()`` gives the function."""
    return _factories("alert_hooks")


def layer_types() -> list[LayerType]:
    """Layer classes that can be adopted; asked anew each time, since frameworks are loaded late."""
    found = _host().registry("layer_types", _register_layer_type, again=True)
    return [registered.layer_type for registered in found.values()]


def checks() -> list[RegisteredCheck]:
    """Checks for ``mx-plugin doctor``."""
    return list(_host().registry("checks", _register_check).values())


def commands() -> Mapping[str, Command]:
    """Subcommands of ``mx-plugin`` by name."""
    return _host().registry("commands", _register_command)


def benches() -> Mapping[str, RegisteredBench]:
    """Benches of ``mx-plugin bench`` by name, in the order in which they were registered."""
    return _host().registry("benches", _register_bench)


def policy_measures() -> Mapping[str, RegisteredPolicyMeasure]:
    """What can measure the costs of whole policies, by name, in the order in which it was registered."""
    return _host().registry("policy_measures", _register_policy_measure)


def conformance() -> Mapping[str, Registration]:
    """Levels of the conformance kit by name; ``factory()`` gives a :class:`mx_plugin.testing.Suite`."""
    return _factories("conformance")


def _factories(kind: str) -> Mapping[str, Registration]:
    return _host().registry(kind, _register_factory)


def _register_factory(record: PluginRecord, found: list[Registration]) -> Callable[..., None]:
    def register(name: str, factory: Callable[..., Any], *, summary: str = "") -> None:
        _check_name(name)
        _check_callable(name, "factory", factory)
        found.append(Registration(name, factory, summary, record))

    return register


def _register_layer_type(record: PluginRecord, found: list[RegisteredLayerType]) -> Callable[..., None]:
    def register(layer_type: LayerType) -> None:
        from .execution.layer_types import LayerType

        if not isinstance(layer_type, LayerType):
            raise PluginError(f"registered {layer_type!r}: wrap the class, register(LayerType(cls, transposed=...))")
        cls = layer_type.cls
        found.append(RegisteredLayerType(f"{cls.__module__}.{cls.__qualname__}", layer_type, record))

    return register


def _register_check(record: PluginRecord, found: list[RegisteredCheck]) -> Callable[..., None]:
    def register(function: Callable[[], list[Check]]) -> None:
        name = f"{record.name}.{getattr(function, '__name__', type(function).__name__)}"
        _check_callable(name, "check", function)
        found.append(RegisteredCheck(name, function, record))

    return register


def _register_command(record: PluginRecord, found: list[Command]) -> Callable[..., None]:
    def register(
        name: str,
        add_arguments: Callable[[argparse.ArgumentParser], None],
        run: Callable[[argparse.Namespace], int],
        *,
        summary: str = "",
    ) -> None:
        _check_name(name)
        _check_callable(name, "add_arguments", add_arguments)
        _check_callable(name, "run", run)
        found.append(Command(name, add_arguments, run, summary, record))

    return register


def _register_bench(record: PluginRecord, found: list[RegisteredBench]) -> Callable[..., None]:
    def register(
        name: str,
        rows: Rows,
        add_arguments: Callable[[argparse.ArgumentParser], None] | None = None,
        *,
        summary: str = "",
    ) -> None:
        _check_name(name)
        _check_callable(name, "rows", rows)
        if add_arguments is not None:
            _check_callable(name, "add_arguments", add_arguments)
        found.append(RegisteredBench(name, rows, add_arguments, summary, record))

    return register


def _register_policy_measure(record: PluginRecord, found: list[RegisteredPolicyMeasure]) -> Callable[..., None]:
    def register(
        name: str,
        open: Callable[[argparse.Namespace], AbstractContextManager[PolicyCosts]],
        add_arguments: Callable[[argparse._ActionsContainer], None] | None = None,
        *,
        summary: str = "",
    ) -> None:
        _check_name(name)
        _check_callable(name, "open", open)
        if add_arguments is not None:
            _check_callable(name, "add_arguments", add_arguments)
        found.append(RegisteredPolicyMeasure(name, open, add_arguments, summary, record))

    return register


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name or name != name.strip() or name.startswith("-"):
        raise PluginError(f"registered under {name!r}: a name is a word that does not start with '-'")


def _check_callable(name: str, what: str, value: object) -> None:
    if not callable(value):
        raise PluginError(f"{name!r}: {what} is {value!r}, which cannot be called")


# ---------------------------------------------------------------------------- making one


def get_provider(name: str, **options: Any) -> Provider:
    """Make the precision provider of that name.

    Raises:
        PluginError: no such provider; its factory raised, or made something else.
    """
    from .interfaces import Provider

    made: Provider = _make("provider", name, providers(), Provider, options)
    return made


def get_backend(name: str, **options: Any) -> Backend:
    """Make the backend of that name; ``options`` are its own. ``close()`` it when done.

    Raises:
        PluginError: no such backend; its factory raised, or made something else; its class was
            written for another interface version.
    """
    from .interfaces import Backend

    made: Backend = _make("backend", name, backends(), Backend, options)
    return made


def get_meter(name: str, **options: Any) -> Meter:
    """Make the energy meter of that name; ``options`` are its own. ``close()`` it when done.

    Raises:
        PluginError: no such meter; its factory raised, or made something else; its class was
            written for another interface version.
    """
    from .interfaces import Meter

    made: Meter = _make("meter", name, meters(), Meter, options)
    return made


def _make(kind: str, name: str, registry: Mapping[str, Registration], cls: type, options: dict[str, Any]) -> Any:
    registration = registry.get(name)
    if registration is None:
        raise PluginError(unknown(kind, name, registry))
    what = f"{kind} {name!r} ({registration.plugin})"
    try:
        made = registration.factory(**options)
    except Exception as error:
        raise PluginError(f"{what} could not be made: {type(error).__name__}: {error}") from error
    if not isinstance(made, cls):
        found = f"the class {made.__name__} itself" if isinstance(made, type) else f"a {type(made).__name__}"
        raise PluginError(f"the factory of {what} made {found}, not a mx_plugin.interfaces.{cls.__name__}")
    declared = getattr(made, "interface_version", None)
    why = version_mismatch(declared)
    if why:
        raise PluginError(f"{what} is refused: {why}")
    for note in filter(None, (newer_minor(declared), *overridden_deprecated(made))):
        registration.plugin.note(f"{kind} {name!r}: {note}")
    return made


def unknown(kind: str, name: str, registry: Mapping[str, Any]) -> str:
    """The message for a name that nobody registered: the nearest, what there is, which plugins failed."""
    hint = f"{nearest(name, sorted(registry))}." if registry else f"no {kind} is installed."
    return f"unknown {kind} {name!r}: {hint} {_host().troubles()}".rstrip()

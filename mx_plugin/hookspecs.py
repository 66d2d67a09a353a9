"""The hooks of mx-plugin. A plugin is a module (or object) whose functions carry ``@hookimpl``.

Every hook hands over a ``register`` callable; call it once per thing that you provide. What is
registered is a *factory*: importing and registering must be cheap, so import torch and device
libraries inside the factory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    import argparse

    from .bench import Rows
    from .execution.layer_types import LayerType
    from .interfaces import Check
    from .sensitivity.policy_costs import PolicyCosts

PROJECT = "mx_plugin"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

INTERFACE_VERSION = (1, 0)
"""(major, minor) of these hooks and of ``interfaces``; a plugin written for another major is refused."""


class RegisterFactory(Protocol):
    """``register(name, factory, *, summary="")``."""

    def __call__(self, name: str, factory: Callable[..., Any], *, summary: str = "") -> None: ...


class RegisterCommand(Protocol):
    """``register(name, add_arguments, run, *, summary="")``."""

    def __call__(
        self,
        name: str,
        add_arguments: Callable[[argparse.ArgumentParser], None],
        run: Callable[[argparse.Namespace], int],
        *,
        summary: str = "",
    ) -> None: ...


class RegisterBench(Protocol):
    """``register(name, rows, add_arguments=None, *, summary="")``."""

    def __call__(
        self,
        name: str,
        rows: Rows,
        add_arguments: Callable[[argparse.ArgumentParser], None] | None = None,
        *,
        summary: str = "",
    ) -> None: ...


class RegisterPolicyMeasure(Protocol):
    """``register(name, open, add_arguments=None, *, summary="")``."""

    def __call__(
        self,
        name: str,
        open: Callable[[argparse.Namespace], AbstractContextManager[PolicyCosts]],
        add_arguments: Callable[[argparse._ActionsContainer], None] | None = None,
        *,
        summary: str = "",
    ) -> None: ...


@hookspec
def mx_register_providers(register: RegisterFactory) -> None:
    """Register precision providers: ``register(name, factory)``.

    ``factory(**options)`` returns a :class:`mx_plugin.interfaces.Provider`; a user chooses it by
    ``policy=name``.
    """


@hookspec
def mx_register_backends(register: RegisterFactory) -> None:
    """Register backends: ``register(name, factory)``.

    ``factory(**options)`` returns a :class:`mx_plugin.interfaces.Backend`; a user chooses it by
    ``backend=name`` or ``mx_plugin.get_backend(name, **options)``.
    """


@hookspec
def mx_register_meters(register: RegisterFactory) -> None:
    """Register energy meters: ``register(name, factory)``.

    ``factory(**options)`` returns a :class:`mx_plugin.interfaces.Meter`; a user chooses it in
    ``meters=[name, ...]``.
    """


@hookspec
def mx_register_boards(register: RegisterFactory) -> None:
    """Register boards: ``register(name, factory)``.

    ``factory(url, **options)`` returns an object that speaks the board protocol at a serial URL.
    """


@hookspec
def mx_register_judges(register: RegisterFactory) -> None:
    """Register judges for experiments: ``register(name, factory)``.

    ``factory(**options)`` returns a callable ``(prompts, completions) -> list[float]`` that scores
    held-out answers, higher is better; if it has a ``describe()``, that plain data goes into
    evaluation.json. A user chooses it by ``--judge name`` or ``--judge name:key=value,...``; options
    arrive as text. Beside them a factory is handed those of ``dataset``, ``start`` (the model before
    training), ``folder`` (where it may keep files) and ``used_prompts`` that it has parameters for.
    """


@hookspec
def mx_register_alert_hooks(register: RegisterFactory) -> None:
    """Register what alert rules may call: ``register(name, factory)``.

    ``factory()`` returns a callable ``(alert) -> None``, which runs in the training process between two
    steps; ``alert`` has ``step``, ``rule``, ``metric``, ``severity``, ``message``, ``value`` and ``bound``.
    A user chooses it by ``action: hook`` and ``hook: name`` in a rules file.
    """


@hookspec
def mx_register_layer_types(register: Callable[[LayerType], None]) -> None:
    """Register layer classes that compute X W^T + b: ``register(LayerType(...))``.

    Called when a model is adopted, so that importing a framework here is cheap: it is already
    loaded. Return without registering when it is not.
    """


@hookspec
def mx_register_checks(register: Callable[[Callable[[], list[Check]]], None]) -> None:
    """Register checks for ``mx-plugin doctor``: ``register(function)``.

    ``function()`` returns a list of :class:`mx_plugin.interfaces.Check`; it must not raise for a
    missing library but say so, with the remedy.
    """


@hookspec
def mx_register_commands(register: RegisterCommand) -> None:
    """Register subcommands of ``mx-plugin``: ``register(name, add_arguments, run)``.

    ``add_arguments(parser)`` fills an argparse parser; ``run(namespace)`` returns an exit status.
    """


@hookspec
def mx_register_benches(register: RegisterBench) -> None:
    """Register benches of ``mx-plugin bench``: ``register(name, rows, add_arguments)``.

    ``rows(bench)`` is a generator of :class:`mx_plugin.bench.Row`; ``bench`` is a
    :class:`mx_plugin.bench.Bench`. ``add_arguments(parser)``, which may be left out, adds options of
    its own to the command. Rows of all plugins stand in one table.
    """


@hookspec
def mx_register_policy_measures(register: RegisterPolicyMeasure) -> None:
    """Register what ``mx-plugin policy search --verify`` measures with: ``register(name, open, add_arguments)``.

    ``open(arguments)`` loads models and data and returns a context manager whose value is a
    :class:`mx_plugin.sensitivity.PolicyCosts`. ``add_arguments(group)``, which may be left out, adds options of its
    own to the command; ``--model``, ``--dtype``, ``--backend`` and ``--seed`` are there.
    """


@hookspec
def mx_register_conformance(register: RegisterFactory) -> None:
    """Register levels of the conformance kit: ``register(name, factory)``.

    ``factory()`` returns a :class:`mx_plugin.testing.Suite`: checks for one kind of plugin, level by level. ``mx-plugin
    conformance`` runs the suites of a kind in the order in which they were registered; one for a new kind says how a
    plugin of that kind is made.
    """

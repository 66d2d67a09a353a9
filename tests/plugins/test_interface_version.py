"""Interface versions: older minors work, newer ones are told, other majors are refused; deprecations name versions."""

from __future__ import annotations

import warnings
from typing import Any

import pluggy
import pytest

from mx_cpu.reference import ReferenceBackend
from mx_plugin import get_backend, hookspecs, interface_version, interfaces, plugin_host, plugins
from mx_plugin.errors import PluginError
from mx_plugin.interface_version import MXDeprecationWarning, deprecated, deprecation

pytestmark = pytest.mark.usefixtures("fresh_plugins")


class Plugin:
    """A plugin object with one backend, written for the interface that it is given."""

    def __init__(self, declared: object, backend: type = ReferenceBackend) -> None:
        self.MX_PLUGIN_INTERFACE = declared
        self.backend = backend

    @hookspecs.hookimpl
    def mx_register_backends(self, register: Any) -> None:
        register("versioned", self.backend)


@pytest.fixture
def interface_1_3(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this were interface 1.3, so that there is an older minor."""
    monkeypatch.setattr(interface_version, "INTERFACE_VERSION", (1, 3))


@pytest.mark.usefixtures("interface_1_3")
@pytest.mark.parametrize("declared", [None, (1, 0), (1, 2), (1, 3)], ids=str)
def test_a_plugin_for_an_older_minor_works_and_nothing_is_said(declared: object) -> None:
    record = plugins.register(Plugin(declared))
    assert isinstance(get_backend("versioned"), ReferenceBackend)
    assert (record.status, record.notes) == ("ok", [])


@pytest.mark.usefixtures("interface_1_3")
def test_a_plugin_for_a_newer_minor_works_and_the_user_is_told_what_may_lack() -> None:
    record = plugins.register(Plugin((1, 5)))
    assert isinstance(get_backend("versioned"), ReferenceBackend)
    assert record.status == "ok"
    (note,) = record.notes
    assert note == (
        "written for interface 1.5, this mx-plugin has 1.3: what 1.5 added is not there; "
        "if the plugin misses it, upgrade mx-plugin"
    )


@pytest.mark.usefixtures("interface_1_3")
def test_a_class_for_a_newer_minor_is_told_when_it_is_made() -> None:
    class Newer(ReferenceBackend):
        interface_version = (1, 4)

    record = plugins.register(Plugin((1, 3), Newer))
    get_backend("versioned")
    assert "backend 'versioned': written for interface 1.4, this mx-plugin has 1.3" in record.notes[0]


@pytest.mark.usefixtures("interface_1_3")
@pytest.mark.parametrize(
    ("declared", "remedy"), [((0, 9), "upgrade the plugin"), ((2, 0), "upgrade mx-plugin, or install an older plugin")]
)
def test_a_plugin_for_another_major_is_refused_with_the_remedy(declared: tuple[int, int], remedy: str) -> None:
    with pytest.raises(PluginError, match=f"is refused: .*{declared[0]}.{declared[1]}, .* 1.3: {remedy}"):
        plugins.register(Plugin(declared))


def test_a_hook_that_only_a_newer_minor_has_names_the_upgrade_not_a_spelling_mistake() -> None:
    class Newer(Plugin):
        @hookspecs.hookimpl
        def mx_register_dreams(self, register: Any) -> None: ...

    with pytest.raises(PluginError, match=r"'mx_register_dreams': .*1\.9, .*upgrade mx-plugin, or mark .*optionalhook"):
        plugins.register(Newer((1, 9)))


# ---------------------------------------------------------------------------- deprecations


@deprecated(since=(1, 0), remove_in=2, instead="call new() with a unit")
def old(watts: float) -> float:
    return 2 * watts


def test_a_deprecated_function_works_and_warns_its_caller_with_both_versions_and_the_remedy() -> None:
    with pytest.warns(MXDeprecationWarning) as caught:
        assert old(3.0) == 6.0
    assert str(caught[0].message) == ("old is deprecated since interface 1.0 and goes in 2.0: call new() with a unit")
    assert caught[0].filename == __file__


def test_implementing_a_deprecated_method_is_noted_although_nobody_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    retired = deprecated(since=(1, 0), remove_in=2, instead="implement conclusion")(interfaces.Backend.conclusion)
    monkeypatch.setattr(interfaces.Backend, "conclusion", retired)

    class Concludes(ReferenceBackend):
        def conclusion(self) -> str:
            return "done"

    silent, speaking = plugins.register(Plugin((1, 0)), "silent"), None
    get_backend("versioned")
    assert silent.notes == []
    plugins.reset()
    speaking = plugins.register(Plugin((1, 0), Concludes), "speaking")
    get_backend("versioned")
    assert speaking.notes == [
        "backend 'versioned': Backend.conclusion is deprecated since interface 1.0 and goes in 2.0: "
        "implement conclusion"
    ]


def test_implementing_a_deprecated_hook_warns_there_and_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Specs:
        @pluggy.HookspecMarker(hookspecs.PROJECT)(
            warn_on_impl=deprecation("mx_register_backends", since=(1, 0), remove_in=2, instead="register engines")
        )
        def mx_register_backends(self, register: Any) -> None: ...

    def manager() -> pluggy.PluginManager:
        made = pluggy.PluginManager(hookspecs.PROJECT)
        made.add_hookspecs(Specs)
        return made

    monkeypatch.setattr(plugin_host, "_new_manager", manager)
    host = plugin_host.PluginHost()
    monkeypatch.setattr(plugin_host, "find_candidates", lambda: ([], []))
    monkeypatch.setattr(plugin_host, "HOOKS", ("mx_register_backends",))
    with pytest.warns(MXDeprecationWarning, match="goes in 2.0: register engines") as caught:
        record = host.add(Plugin((1, 0)), "old-fashioned")
    assert caught[0].filename == __file__
    assert record.notes == [str(caught[0].message)]


@pytest.mark.parametrize(
    ("since", "remove_in", "why"), [((1, 2), 1, "major 2 at the soonest"), ((0, 4), 1, "which this is: delete it")]
)
def test_a_removal_that_is_due_or_impossible_is_an_error_where_it_is_written(
    since: tuple[int, int], remove_in: int, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        deprecated(since=since, remove_in=remove_in, instead="-")(lambda: None)


def test_nothing_of_ours_is_deprecated_by_accident() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", MXDeprecationWarning)
        plugins.reset()
        assert all(record.status == "ok" for record in plugins.plugin_report() if record.distribution == "mx-plugin")

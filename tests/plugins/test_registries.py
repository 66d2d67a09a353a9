"""Registering, asking and making, within one process."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

import pytest
from torch import nn

import mx_plugin
from mx_cpu.reference import ReferenceBackend
from mx_plugin import hookimpl, plugins
from mx_plugin.errors import PluginError
from mx_plugin.execution.layer_types import LayerType
from mx_plugin.hookspecs import INTERFACE_VERSION
from mx_plugin.interfaces import LayerInfo, Provider
from mx_plugin.precision.formats import LayerFormats

pytestmark = pytest.mark.usefixtures("fresh_plugins")


class Backends:
    """A plugin object with the backends it was given."""

    def __init__(self, **factories: Any) -> None:
        self.factories = factories

    @hookimpl
    def mx_register_backends(self, register: Any) -> None:
        for name, factory in self.factories.items():
            register(name, factory)


class Unquantised(Provider):
    def __init__(self, layers: list[LayerInfo] | None = None) -> None:
        self.layers = layers

    def get_precision(self, layer_name: str, phase: str, role: str = "policy") -> LayerFormats:
        return LayerFormats()


# ---------------------------------------------------------------------------- making


def test_options_reach_the_factory() -> None:
    class Options(ReferenceBackend):
        def __init__(self, threads: int) -> None:
            super().__init__()
            self.threads = threads

    plugins.register(Backends(optioned=Options))
    assert mx_plugin.get_backend("optioned", threads=3).threads == 3  # type: ignore[attr-defined]


def test_every_call_makes_a_new_one() -> None:
    assert mx_plugin.get_backend("cpu") is not mx_plugin.get_backend("cpu")


def test_a_provider_and_a_meter_are_made_by_name() -> None:
    class Plugin:
        @hookimpl
        def mx_register_providers(self, register: Any) -> None:
            register("unquantised", Unquantised)

    plugins.register(Plugin())
    assert isinstance(mx_plugin.get_provider("unquantised", layers=[]), Unquantised)
    assert mx_plugin.get_meter("modelled").name == "modelled"


@pytest.mark.parametrize(
    ("get", "word", "near"),
    [("get_backend", "cpuu", "cpu"), ("get_meter", "Zeus", "zeus"), ("get_meter", "modeled", "modelled")],
)
def test_an_unknown_name_gets_the_nearest_and_all_there_are(get: str, word: str, near: str) -> None:
    with pytest.raises(PluginError, match=f"{word!r}: did you mean {near!r}. Valid: .*{near}"):
        getattr(mx_plugin, get)(word)


def test_an_unknown_provider_says_that_none_is_installed() -> None:
    with pytest.raises(PluginError, match="unknown provider 'x': no provider is installed"):
        mx_plugin.get_provider("x")


def test_a_factory_that_raises_is_named_with_its_plugin_and_cause() -> None:
    def factory() -> None:
        raise OSError("port is busy")

    plugins.register(Backends(bad=factory), name="boards")
    with pytest.raises(
        PluginError, match=r"backend 'bad' \(plugin boards\) could not be made: OSError: port"
    ) as caught:
        mx_plugin.get_backend("bad")
    assert isinstance(caught.value.__cause__, OSError)


def test_an_option_that_the_factory_does_not_know_is_named_with_the_distribution() -> None:
    with pytest.raises(PluginError, match=r"plugin mx_cpu of mx-plugin \d.*unexpected keyword argument 'thread'"):
        mx_plugin.get_backend("cpu", thread=2)


@pytest.mark.parametrize(
    ("factory", "found"),
    [(lambda: "text", "a str"), (lambda: None, "a NoneType"), (lambda: ReferenceBackend, "the class ReferenceBackend")],
    ids=["text", "nothing", "class"],
)
def test_a_factory_that_makes_something_else_is_refused(factory: Any, found: str) -> None:
    plugins.register(Backends(odd=factory))
    with pytest.raises(PluginError, match=f"made {found}.*not a mx_plugin.interfaces.Backend"):
        mx_plugin.get_backend("odd")


@pytest.mark.parametrize(
    ("version", "remedy"),
    [((9, 1), "9.1.*upgrade mx-plugin"), ((0, 3), "0.3.*upgrade the plugin"), ("1", "declare MX_PLUGIN_INTERFACE")],
    ids=str,
)
def test_a_class_written_for_another_interface_is_refused_when_made(version: Any, remedy: str) -> None:
    class Other(ReferenceBackend):
        interface_version = version

    plugins.register(Backends(other=Other))
    with pytest.raises(PluginError, match=f"backend 'other'.*refused.*{remedy}"):
        mx_plugin.get_backend("other")


def test_any_minor_of_our_major_is_accepted() -> None:
    class Newer(ReferenceBackend):
        interface_version = (INTERFACE_VERSION[0], INTERFACE_VERSION[1] + 7)

    plugins.register(Backends(newer=Newer))
    assert isinstance(mx_plugin.get_backend("newer"), Newer)


# ---------------------------------------------------------------------------- registering


def test_the_first_owner_of_a_name_keeps_it_and_the_conflict_is_told(caplog: pytest.LogCaptureFixture) -> None:
    plugins.register(Backends(cpu=dict, mine=ReferenceBackend), name="usurper")
    with caplog.at_level(logging.WARNING):
        assert type(mx_plugin.get_backend("cpu")).__module__.startswith("mx_cpu.")
    (record,) = [r for r in plugins.plugin_report() if r.name == "usurper"]
    assert record.registered["backends"] == ["mine"]
    assert len(record.notes) == 1
    assert "'cpu' is taken by plugin mx_cpu of mx-plugin" in record.notes[0]
    assert record.notes[0] in caplog.text


def test_registering_again_under_the_same_name_replaces_as_a_notebook_needs() -> None:
    class First(ReferenceBackend): ...

    class Second(ReferenceBackend): ...

    plugins.register(Backends(mine=First))
    assert isinstance(mx_plugin.get_backend("mine"), First)
    plugins.register(Backends(mine=Second))
    assert isinstance(mx_plugin.get_backend("mine"), Second)
    assert [r.name for r in plugins.plugin_report()].count("Backends") == 1


def test_what_was_registered_by_hand_can_be_taken_back_and_nothing_else() -> None:
    plugins.register(Backends(mine=ReferenceBackend), name="here for a while")
    assert "mine" in plugins.backends()
    plugins.unregister("here for a while")
    plugins.unregister("here for a while")
    plugins.unregister("mx_cpu")  # installed: it stays
    assert "mine" not in plugins.backends()
    assert "cpu" in plugins.backends()


def test_what_is_registered_late_joins_registries_already_read() -> None:
    before = set(plugins.backends())
    plugins.register(Backends(late=ReferenceBackend))
    assert set(plugins.backends()) == before | {"late"}


def test_a_module_can_be_registered() -> None:
    module = ModuleType("my_notebook_plugin")

    @hookimpl
    def mx_register_backends(register: Any) -> None:
        register("from_module", ReferenceBackend)

    module.mx_register_backends = mx_register_backends  # type: ignore[attr-defined]
    assert plugins.register(module).name == "my_notebook_plugin"
    assert "from_module" in plugins.backends()


def test_registering_a_plugin_for_another_major_raises_and_leaves_nothing() -> None:
    plugin = Backends(future=dict)
    plugin.MX_PLUGIN_INTERFACE = (2, 0)  # type: ignore[attr-defined]
    with pytest.raises(PluginError, match=r"plugin Backends is refused: written for interface 2\.0"):
        plugins.register(plugin)
    assert "Backends" not in [r.name for r in plugins.plugin_report()]


def test_a_hook_without_the_decorator_is_pointed_out() -> None:
    class Forgetful:
        def mx_register_meters(self, register: Any) -> None:
            register("never", dict)

    record = plugins.register(Forgetful())
    assert record.notes == ["mx_register_meters lacks the decorator @mx_plugin.hookimpl, so it is never called"]


def test_a_hook_of_a_newer_version_may_be_marked_optional() -> None:
    class Newer(Backends):
        @hookimpl(optionalhook=True)
        def mx_register_of_the_future(self, register: Any) -> None: ...

    plugins.register(Newer(newer=ReferenceBackend))
    assert "newer" in plugins.backends()


@pytest.mark.parametrize("name", ["", " padded", "--flag", None, 3], ids=repr)
def test_a_name_that_is_no_word_breaks_the_hook(name: Any) -> None:
    class Plugin:
        @hookimpl
        def mx_register_backends(self, register: Any) -> None:
            register(name, dict)

    plugins.register(Plugin())
    (record,) = [r for r in plugins.plugin_report() if r.name == "Plugin"]
    assert record.status == "broken"
    assert repr(name) in record.error


def test_a_factory_that_cannot_be_called_breaks_the_hook() -> None:
    plugins.register(Backends(odd="mx_cpu.reference"))
    (record,) = [r for r in plugins.plugin_report() if r.name == "Backends"]
    assert "'odd': factory is 'mx_cpu.reference', which cannot be called" in record.error


def test_reset_forgets_what_was_registered() -> None:
    plugins.register(Backends(mine=ReferenceBackend))
    plugins.reset()
    assert "mine" not in plugins.backends()
    assert "cpu" in plugins.backends()


# ---------------------------------------------------------------------------- layer types, boards, judges


def test_layer_types_are_asked_anew_each_time_since_frameworks_load_late() -> None:
    class Late(nn.Module): ...

    class Plugin:
        ready = False

        @hookimpl
        def mx_register_layer_types(self, register: Any) -> None:
            if self.ready:
                register(LayerType(Late, transposed=True))

    plugin = Plugin()
    plugins.register(plugin)
    assert [t.cls for t in plugins.layer_types() if t.cls in (nn.Linear, Late)] == [nn.Linear]
    plugin.ready = True
    assert LayerType(Late, transposed=True) in plugins.layer_types()
    plugin.ready = False
    assert Late not in [t.cls for t in plugins.layer_types()]
    assert all(record.notes == [] for record in plugins.plugin_report())


def test_a_second_opinion_on_linear_is_told_and_ours_stays() -> None:
    class Plugin:
        @hookimpl
        def mx_register_layer_types(self, register: Any) -> None:
            register(LayerType(nn.Linear, transposed=True))

    record = plugins.register(Plugin())
    for _ in range(2):
        assert [t.transposed for t in plugins.layer_types() if t.cls is nn.Linear] == [False]
    assert len(record.notes) == 1


def test_a_bare_class_as_layer_type_breaks_the_hook_with_the_remedy() -> None:
    class Plugin:
        @hookimpl
        def mx_register_layer_types(self, register: Any) -> None:
            register(nn.Bilinear)

    record = plugins.register(Plugin())
    assert nn.Linear in [t.cls for t in plugins.layer_types()]
    assert "wrap the class, register(LayerType(cls, transposed=...))" in record.error


def test_boards_and_judges_are_found_by_name() -> None:
    class Plugin:
        @hookimpl
        def mx_register_boards(self, register: Any) -> None:
            register("echo", lambda url: url, summary="an echo")

        @hookimpl
        def mx_register_judges(self, register: Any) -> None:
            register("length", lambda: lambda prompts, completions: [float(len(c)) for c in completions])

    plugins.register(Plugin())
    assert plugins.boards()["echo"].factory("sim:") == "sim:"
    assert plugins.boards()["echo"].summary == "an echo"
    assert plugins.judges()["length"].factory()(["p"], ["four"]) == [4.0]

"""Broken providers: each does one thing wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from mx_plugin.errors import PolicyError
from mx_plugin.formats import Pair
from mx_plugin.interfaces import LayerInfo, Provider
from mx_plugin.precision.formats import PHASES, ROLES, LayerFormats, Product
from tests.conformance.broken.collection import Collection

PROVIDERS = Collection()
NARROW, WIDE, PLAIN = (
    LayerFormats(*[Product(Pair(*pair))] * 3) for pair in (("MXFP4", "MXFP8"), ("MXFP8", "MXFP8"), ("FP16", "FP16"))
)


class Sound(Provider):
    """Nothing is wrong with this one: attention is wide, MLPs are narrow until KL has been above 1."""

    def __init__(self) -> None:
        self.widened = False
        self.names: list[str] = []

    def start(self, layers: Sequence[LayerInfo]) -> None:
        self.names = [layer.name for layer in layers]

    def get_precision(self, layer_name: str, phase: str, role: str = "policy") -> LayerFormats:
        self.check(phase, role)
        if layer_name in self.names:
            return self.answer(layer_name)
        below = {name: self.answer(name) for name in self.names if name.startswith(f"{layer_name}.")}
        return self.of_prefix(layer_name, below)

    def check(self, phase: str, role: str) -> None:
        if phase not in PHASES:
            raise PolicyError(f"unknown phase {phase!r}")
        if role not in ROLES:
            raise PolicyError(f"unknown role {role!r}")

    def of_prefix(self, prefix: str, below: Mapping[str, LayerFormats]) -> LayerFormats:
        answers = list(below.values())
        if not answers or any(answer != answers[0] for answer in answers):
            raise PolicyError(f"layers below {prefix!r} differ: {below}")
        return answers[0]

    def answer(self, layer_name: str) -> LayerFormats:
        return NARROW if ".mlp." in layer_name and not self.widened else WIDE

    def observe(self, step: int, metrics: Mapping[str, float]) -> bool:
        before = self.widened
        self.widened = self.widened or metrics.get("kl", 0.0) > 1.0
        return self.widened != before

    def state_dict(self) -> Mapping[str, Any]:
        return {"widened": self.widened}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.widened = state["widened"]


@PROVIDERS.caught_by("loads-is_a_provider")
class NoProvider:
    def __init__(self) -> None:
        self._inner = Sound()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@PROVIDERS.caught_by("loads-describes_itself")
class DescribesAnObject(Sound):
    def describe(self) -> Mapping[str, Any]:
        return {"layers": set(self.names)}


@PROVIDERS.caught_by("answers-every_place")
class AnswersInText(Sound):
    def answer(self, layer_name: str) -> LayerFormats:
        return "MXFP8" if layer_name == "lm_head" else super().answer(layer_name)  # type: ignore[return-value]


@PROVIDERS.caught_by("answers-known_formats")
class MadeUpFormat(Sound):
    def answer(self, layer_name: str) -> LayerFormats:
        if layer_name == "lm_head":
            return LayerFormats(Product(Pair("MXFP5", "MXFP8")))
        return super().answer(layer_name)


@PROVIDERS.caught_by("answers-the_same_again")
class AnswersOtherwiseAtFirst(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.asked = False

    def answer(self, layer_name: str) -> LayerFormats:
        if layer_name != "lm_head":
            return super().answer(layer_name)
        first, self.asked = not self.asked, True
        return PLAIN if first else WIDE


@PROVIDERS.caught_by("answers-the_same_anew")
class DrawsForItself(Sound):
    made = count()

    def __init__(self) -> None:
        super().__init__()
        self.drawn = next(self.made) % 2

    def answer(self, layer_name: str) -> LayerFormats:
        return PLAIN if layer_name == "lm_head" and self.drawn else super().answer(layer_name)

    def state_dict(self) -> Mapping[str, Any]:
        return {**super().state_dict(), "drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.drawn = state["drawn"]


@PROVIDERS.caught_by("refuses-unknown_phases")
class AnswersUnknownPhases(Sound):
    def check(self, phase: str, role: str) -> None:
        super().check("rollout", role)


@PROVIDERS.caught_by("refuses-unknown_roles")
class AnswersUnknownRoles(Sound):
    def check(self, phase: str, role: str) -> None:
        super().check(phase, "policy")


@PROVIDERS.caught_by("prefixes-shared")
class PrefixesAreNoLayers(Sound):
    def of_prefix(self, prefix: str, below: Mapping[str, LayerFormats]) -> LayerFormats:
        super().of_prefix(prefix, below)
        return PLAIN


@PROVIDERS.caught_by("prefixes-differing")
class FirstBelowThePrefix(Sound):
    def of_prefix(self, prefix: str, below: Mapping[str, LayerFormats]) -> LayerFormats:
        return next(iter(below.values()))


@PROVIDERS.caught_by("learns-says_whether_it_changed")
class SaysNothing(Sound):
    def observe(self, step: int, metrics: Mapping[str, float]) -> bool:
        return int(super().observe(step, metrics))  # type: ignore[return-value]


@PROVIDERS.caught_by("learns-keeps_its_word")
class ChangesItsMindInSilence(Sound):
    def observe(self, step: int, metrics: Mapping[str, float]) -> bool:
        super().observe(step, metrics)
        return False


@PROVIDERS.caught_by("learns-takes_any_metrics")
class NeedsItsMetric(Sound):
    def observe(self, step: int, metrics: Mapping[str, float]) -> bool:
        return super().observe(step, {"kl": metrics["kl"]})


@PROVIDERS.caught_by("learns-state_is_plain")
class KeepsASet(Sound):
    def state_dict(self) -> Mapping[str, Any]:
        return {"widened": self.widened, "names": set(self.names)}


@PROVIDERS.caught_by("learns-resumes")
class ForgetsItsState(Sound):
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass

"""Broken backends beside their casts and products: what they declare, hand out, count and train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch

from mx_cpu.reference import ReferenceBackend
from mx_plugin.errors import PluginError
from mx_plugin.formats import MXTensor
from mx_plugin.formats.spec import SCALE_RULES
from mx_plugin.interfaces import Capabilities, Counters, MatrixProduct
from tests.conformance.broken.collection import Collection
from tests.conformance.broken.sound import Multiplying

BACKENDS = Collection()


# ---------------------------------------------------------------------------- loads


@BACKENDS.caught_by("loads-is_a_backend")
class NoBackend:
    def __init__(self) -> None:
        self._inner = ReferenceBackend()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@BACKENDS.caught_by("loads-interface_version")
class OfAnotherMajor(ReferenceBackend):
    interface_version = (2, 0)


@BACKENDS.caught_by("loads-says_its_name")
class Nameless(ReferenceBackend):
    name = "?"


@BACKENDS.caught_by("loads-describes_itself")
class DescribesAnObject(ReferenceBackend):
    def describe(self) -> Mapping[str, Any]:
        return {"device": torch.device("cpu")}


# ---------------------------------------------------------------------------- declares


class _Declaring(Multiplying):
    declared: ClassVar[Mapping[str, Any]] = {}

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, **self.declared)


@BACKENDS.caught_by("declares-capabilities_are_sound")
class DeclaresAnAlias(_Declaring):
    declared: ClassVar = {"formats": ("MXFP8_E4M3", "MXFP8_E5M2", "MXFP6", "MXFP6_E3M2", "MXFP4", "MXINT8", "MXFP8")}


@BACKENDS.caught_by("declares-takes_what_it_declares")
class LiesAboutWhatItTakes(Multiplying):
    def product(self, x, handle, bias, activations, rule):  # type: ignore[no-untyped-def]
        if activations == "FP16" and handle.fmt == "MXFP4":
            raise NotImplementedError("MXFP4/FP16")
        return super().product(x, handle, bias, activations, rule)


@BACKENDS.caught_by("declares-refuses_other_activations")
class TakesOtherActivations(_Declaring):
    declared: ClassVar = {"activations": ("FP16", "MXFP8", "MXFP8_E5M2", "MXFP6", "MXFP6_E3M2", "MXFP4")}


@BACKENDS.caught_by("declares-refuses_other_weights")
class TakesOtherWeights(_Declaring):
    declared: ClassVar = {"formats": ("MXFP8", "MXFP8_E5M2", "MXFP6", "MXFP6_E3M2", "MXFP4")}


@BACKENDS.caught_by("declares-refuses_unknown_rules")
class TakesAnyRule(Multiplying):
    def product(self, x, handle, bias, activations, rule):  # type: ignore[no-untyped-def]
        return super().product(x, handle, bias, activations, rule if rule in SCALE_RULES else "floor")


@BACKENDS.caught_by("declares-casts_for_training_as_declared")
class CastsForPairsOfRowsOnly(ReferenceBackend):
    def fake_quantize(self, x, fmt, dim=-1, **more):  # type: ignore[no-untyped-def]
        if x.shape == (3, 64):
            raise NotImplementedError("an odd number of rows of two blocks")
        return super().fake_quantize(x, fmt, dim, **more)


@BACKENDS.caught_by("declares-casts_for_training_as_declared", alone=False)
class DeclaresCastsThatItHasNot(ReferenceBackend):
    def fake_quantize(self, *anything, **more):  # type: ignore[no-untyped-def]
        raise NotImplementedError


@BACKENDS.caught_by("declares-refuses_a_weight_blocked_along_out")
class TakesBlocksAlongOut(ReferenceBackend):
    def load_weight(self, packed):  # type: ignore[no-untyped-def]
        if len(packed.shape) == 2 and packed.dim == 0:
            packed = self.quantize(packed.dequantize(), packed.format.name)
        return super().load_weight(packed)


@BACKENDS.caught_by("declares-refuses_x_of_another_length")
class CutsX(Multiplying):
    def product(self, x, handle, bias, activations, rule):  # type: ignore[no-untyped-def]
        length = x.shape[-1] if handle in self.unloaded or handle not in self.loaded else handle.shape[1]
        return super().product(x[..., :length], handle, bias, activations, rule)


# ---------------------------------------------------------------------------- handles


@BACKENDS.caught_by("handles-many")
class ThirtyTwoHandles(Multiplying):
    def product(self, x, handle, bias, activations, rule):  # type: ignore[no-untyped-def]
        if handle in self.loaded and len(self.loaded) - self.loaded.index(handle) > 32:
            handle = self.loaded[-1]
        return super().product(x, handle, bias, activations, rule)


@BACKENDS.caught_by("handles-after_unload")
class GivesMemoryToAnother(Multiplying):
    def product(self, x, handle, bias, activations, rule):  # type: ignore[no-untyped-def]
        if handle in self.unloaded:
            handle = self.loaded[-1]
        return super().product(x, handle, bias, activations, rule)


@BACKENDS.caught_by("handles-unload_spares_others")
class UnloadsItsNeighbour(Multiplying):
    def unload_weight(self, handle):  # type: ignore[no-untyped-def]
        after = self.loaded[-1:]
        super().unload_weight(handle)
        for neighbour in after:
            super().unload_weight(neighbour)


@BACKENDS.caught_by("handles-memory_is_freed")
class LeaksHandles(Multiplying):
    def unload_weight(self, handle):  # type: ignore[no-untyped-def]
        """Forgets that there is something to forget."""

    def close(self) -> None:
        self.loaded.clear()
        self.closed = True


@BACKENDS.caught_by("handles-close_frees")
class KeepsWeightsAfterClose(Multiplying):
    def close(self) -> None:
        self.closed = True


@BACKENDS.caught_by("handles-strangers")
class TakesAnythingForAHandle(Multiplying):
    def product(self, x, handle, bias, activations, rule):  # type: ignore[no-untyped-def]
        if handle is None:
            handle = self.loaded[-1]
        return super().product(x, handle, bias, activations, rule)


@BACKENDS.caught_by("handles-closes_twice")
class ClosesOnce(Multiplying):
    def close(self) -> None:
        if self.closed:
            raise PluginError("closed already")
        super().close()


@BACKENDS.caught_by("handles-closed_loads_nothing")
class LoadsAfterClose(Multiplying):
    def close(self) -> None:
        super().close()
        self.closed = False


# ---------------------------------------------------------------------------- counts


class _Miscounting(ReferenceBackend):
    wrong: ClassVar[Mapping[str, int]] = {}

    def counters(self) -> Counters:
        return replace(super().counters(), **self.wrong)


@BACKENDS.caught_by("counts-calls_and_macs")
class CountsNoCalls(_Miscounting):
    wrong: ClassVar = {"linear_calls": 0, "macs": 0}


@BACKENDS.caught_by("counts-weights")
class CountsNoWeights(_Miscounting):
    wrong: ClassVar = {"weights_loaded": 0}


@BACKENDS.caught_by("counts-a_snapshot_stays")
class HandsOutItsOwnCounters(Multiplying):
    def counters(self) -> Counters:
        return self.counted


@BACKENDS.caught_by("counts-bytes_of_a_call")
class ReadsNothing(ReferenceBackend):
    def weight_bytes(self, packed: MXTensor, model_dtype: torch.dtype) -> int:
        return 0


@BACKENDS.caught_by("counts-calls_and_macs", alone=False)
class CountsNothing(_Miscounting):
    wrong: ClassVar = {"linear_calls": 0, "macs": 0, "weights_loaded": 0, "weight_bytes": 0}


# ---------------------------------------------------------------------------- trains


@BACKENDS.caught_by("trains-rollout")
class FailsInInferenceMode(Multiplying):
    def product(self, x, handle, bias, activations, rule):  # type: ignore[no-untyped-def]
        if torch.is_inference_mode_enabled():
            raise RuntimeError("cannot set version_counter for inference tensor")
        return super().product(x, handle, bias, activations, rule)


@BACKENDS.caught_by("trains-gradients")
class SumsInBfloat16(ReferenceBackend):
    def bfloat16_product(self, device: torch.device) -> MatrixProduct | None:
        return lambda a, b: (a.float() @ b.float()).bfloat16().float()


@BACKENDS.caught_by("trains-a_step")
class KeepsWeightsByName(ReferenceBackend):
    def __init__(self) -> None:
        super().__init__()
        self.by_name: dict[Any, MXTensor] = {}

    def quantize(self, x, fmt, dim=-1, *, rounding="nearest", scale_rule="floor", key=None):  # type: ignore[no-untyped-def]
        packed = super().quantize(x, fmt, dim, rounding=rounding, scale_rule=scale_rule, key=key)
        if key is None or key.seed:
            return packed
        return self.by_name.setdefault((key, fmt, scale_rule), packed)

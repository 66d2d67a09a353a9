"""Frozen layers give up their full-precision weight: one packed copy serves every phase they run in.

In ``gradient`` a released layer's forward product multiplies the decoded copy, bit for bit what a cast of the
weight would have given. Its dgrad has no full-precision W to cast along ``out``: it takes the decoded forward weight,
blocked along ``in``, without a second cast (as QLoRA does: Dettmers et al., 2023). wgrad never happens.
"""

from __future__ import annotations

import ctypes
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import swap_tensors

from ..errors import ReleasedWeightError
from ..formats.spec import FP16, Pair
from ..precision.formats import LayerFormats
from . import phases
from .adoption import LeftOut
from .layer import AdoptedLayer, adopted_class
from .packing import PackedWeights
from .qualification import Formats, Holders, one_format, phases_of, unserved, why_kept
from .released_module import released_class
from .released_weight import PackedSource, ReleasedWeight
from .routes import Route
from .weight_source import CheckedSource, WeightSource

log = logging.getLogger(__name__)

SourceOf = Callable[[AdoptedLayer], WeightSource | None]

_DGRAD = "W is the decoded forward weight, blocked along in, not cast again along out"


@dataclass
class Release:
    """One layer that gave up its weight. ``restored``: how it came back: ``source``, ``decoded``, ``replaced``."""

    layer: AdoptedLayer
    weights: str
    scale_rule: str
    phases: tuple[str, ...]
    parameter: torch.Tensor
    requires_grad: bool
    attributes: dict[str, Any]
    nbytes: int
    packed_nbytes: int
    source: CheckedSource | None
    why_no_source: str
    restored: str = ""
    why_decoded: str = ""

    def describe(self) -> dict[str, Any]:
        """Plain data for config.json."""
        told: dict[str, Any] = {
            "role": self.layer.role,
            "layer": self.layer.name,
            "format": self.weights,
            "scale_rule": self.scale_rule,
            "phases": list(self.phases),
            "bytes": self.nbytes,
            "packed_bytes": self.packed_nbytes,
            "source": self.source.describe() if self.source is not None else None,
            "restored": self.restored or None,
        }
        if phases.GRADIENT in self.phases:
            told["dgrad"] = _DGRAD
        why = self.why_decoded or self.why_no_source
        return {**told, "why_not_from_source": why} if why else told


class Releases:
    """All layers of one engine that gave up their weight, and why the others kept theirs."""

    def __init__(self, packs: Mapping[int, PackedWeights], asked: Formats) -> None:
        self.kept: list[LeftOut] = []
        self.done: list[Release] = []
        self._packs = packs
        self._asked = asked
        self._by_layer: dict[int, Release] = {}

    # ------------------------------------------------------------------ releasing

    def release(
        self,
        layers: Sequence[AdoptedLayer],
        roots: Mapping[str, nn.Module],
        source_of: SourceOf,
        frozen_roles: Collection[str],
        withheld: Mapping[int, str],
    ) -> None:
        """Release every layer that qualifies, one after the other: the peak is one weight more than before."""
        holders = Holders(roots)
        trained = {
            role for role, root in roots.items()
            if role not in frozen_roles and any(parameter.requires_grad for parameter in root.parameters())
        }  # fmt: skip
        for layer in layers:
            if layer.released:
                continue
            reason = why_kept(layer, holders, frozen_roles) or withheld.get(id(layer.module._parameters["weight"]), "")
            reason = reason or self._release(layer, phases_of(layer.role, layer.role in trained), source_of)
            if reason:
                self.kept.append(LeftOut(layer.name, layer.role, reason))
        _return_memory_to_the_system()
        self._tell()

    def _release(self, layer: AdoptedLayer, in_phases: tuple[str, ...], source_of: SourceOf) -> str:
        """Release one layer; why not, if that is impossible."""
        chosen = one_format(layer, in_phases, self._asked)
        if isinstance(chosen, str):
            return chosen
        packs, parameter = self._packs[id(layer)], layer.module._parameters["weight"]
        assert parameter is not None
        source, why_no_source = _checked(source_of(layer), parameter.detach())
        weights, scale_rule = chosen
        packed = packs.backend.quantize(layer.weight.detach(), weights, -1, scale_rule=scale_rule)
        stand_in = ReleasedWeight(
            PackedSource(packed, packs.backend, f"{layer.role}:{layer.name}"), layer.layer_type.transposed
        )
        attributes, requires_grad, nbytes = dict(parameter.__dict__), parameter.requires_grad, parameter.nbytes
        stand_in.__dict__.update(attributes, _is_param=True)
        memory = StorageWeakRef(parameter.untyped_storage())  # type: ignore[no-untyped-call]
        try:
            # The same Python object becomes the stand-in: lists of parameters that others keep stay right.
            swap_tensors(parameter, stand_in)  # type: ignore[no-untyped-call]
        except RuntimeError:  # torch swaps only tensors that nothing else in C++, and no weak reference, points to
            return "something else refers to its weight, e.g. a graph that waits for its backward"
        del stand_in
        packs.keep(packed, self._asked(layer, in_phases[0]).forward)
        layer.module.__class__ = released_class(layer.original)  # type: ignore[arg-type]
        layer.released = True
        release = Release(
            layer, weights, scale_rule, in_phases, parameter, requires_grad, attributes,
            nbytes, packed.nbytes, source, why_no_source,
        )  # fmt: skip
        self.done.append(release)
        self._by_layer[id(layer)] = release
        if not memory.expired():  # type: ignore[no-untyped-call]
            log.warning("the memory of %s is not free: a tensor outside the model still views it", _name(release))
        return ""

    # ------------------------------------------------------------------ executing

    def as_executed(self, layer: AdoptedLayer, phase: str, formats: LayerFormats) -> LayerFormats:
        """``formats``, except that dgrad of a released layer has no unquantised W to take."""
        if phase != phases.GRADIENT or id(layer) not in self._by_layer or formats.dgrad.pair.weights != FP16:
            return formats
        pair = Pair(formats.weights, formats.dgrad.pair.activations)
        return replace(formats, dgrad=replace(formats.dgrad, pair=pair))

    def refusal(self, layer: AdoptedLayer, phase: str, formats: LayerFormats) -> Route | None:
        """A route that raises, where a released layer would need its full-precision weight."""
        release = self._by_layer.get(id(layer))
        if release is None or phase == phases.OTHER:
            return None
        reason = unserved(formats, phases.inner(phase) == phases.GRADIENT)
        if not reason and (formats.weights, formats.forward.scale_rule) != (release.weights, release.scale_rule):
            reason = f"its weight takes {formats.weights} ({formats.forward.scale_rule})"
        if not reason:
            return None

        def refused(x: torch.Tensor) -> torch.Tensor:
            raise ReleasedWeightError(
                f"{_name(release)} was released as {release.weights} ({release.scale_rule}) for "
                f"{', '.join(release.phases)}, but now executes in {phase}, where {reason}. Give it one format in the "
                "policy for all phases that it runs in, or set release_frozen=False"
            )

        return refused

    def take_back_changed(self) -> None:
        """The provider changed its mind: layers whose format it changed get their weight back first."""
        for release in list(self._by_layer.values()):
            chosen = one_format(release.layer, release.phases, self._asked)
            if chosen != (release.weights, release.scale_rule):
                self._restore(release)
                del self._by_layer[id(release.layer)]
                log.warning(
                    "%s is not released any more, its formats have changed; it was restored: %s",
                    _name(release),
                    f"decoded MX values, because {release.why_decoded}" if release.why_decoded else release.restored,
                )

    # ------------------------------------------------------------------ restoring

    def restore(self) -> None:
        """Every module gets an ordinary parameter again, one after the other; idempotent."""
        waiting = [release for release in self.done if not release.restored]
        if not waiting:
            return
        for release in waiting:
            self._restore(release)
        decoded = [release for release in self.done if release.restored == "decoded"]
        reloaded = sum(release.restored == "source" for release in self.done)
        if reloaded:
            log.info("release_frozen: %d weights were reloaded from their source, checked by hash", reloaded)
        for reason, names in _by_reason((release.why_decoded, _name(release)) for release in decoded).items():
            log.warning(
                "release_frozen: %d layers keep decoded MX values instead of their full-precision weights, because %s: "
                "%s. Load the model anew before you use or save it elsewhere", len(names), reason, _some(names),
            )  # fmt: skip

    def _restore(self, release: Release) -> None:
        layer, parameter = release.layer, release.parameter
        if layer.module._parameters.get("weight") is parameter and isinstance(parameter, ReleasedWeight):
            values = self._reloaded(release)
            if values is None:
                release.restored, values = "decoded", parameter.decode()
            _put_back(layer.module, parameter, values, release)
        else:
            release.restored = "replaced"
            log.warning("the weight of %s was replaced while it was released; it is left as it is", _name(release))
        layer.module.__class__ = adopted_class(layer.original)  # type: ignore[arg-type]
        layer.released = False
        self._packs[id(layer)].let_go()

    def _reloaded(self, release: Release) -> torch.Tensor | None:
        """The weight from its source; None, with the reason noted, when that is not to be had."""
        if release.source is None:
            release.why_decoded = release.why_no_source
            return None
        try:
            values = release.source.reload(release.parameter.dtype, release.parameter.device)
        except ValueError as error:
            release.why_decoded = str(error)
            return None
        release.restored = "source"
        return values

    # ------------------------------------------------------------------ telling

    def describe(self) -> dict[str, Any]:
        """Plain data for config.json: every layer released, every other one with its reason, and the bytes."""
        return {
            "bytes": sum(release.nbytes for release in self.done),
            "packed_bytes": sum(release.packed_nbytes for release in self.done),
            "layers": [release.describe() for release in self.done],
            "kept": [vars(item) for item in self.kept],
        }

    def _tell(self) -> None:
        kept = _by_reason((item.reason, f"{item.role}:{item.name}") for item in self.kept)
        reasons = "; ".join(f"{len(names)} because {reason}: {_some(names)}" for reason, names in kept.items())
        if not self.done:
            log.warning("release_frozen=True released no layer. Kept: %s", reasons or "there is none")
            return
        log.info(
            "release_frozen: %d layers gave up %.4g MB of full-precision weights for %.4g MB packed. Kept: %s",
            len(self.done),
            sum(release.nbytes for release in self.done) / 1e6,
            sum(release.packed_nbytes for release in self.done) / 1e6,
            reasons or "none",
        )
        lost = _by_reason((r.why_no_source, _name(r)) for r in self.done if r.source is None)
        for reason, names in lost.items():
            log.warning(
                "release_frozen: %d layers will keep decoded MX values at the end, because %s: %s",
                len(names), reason, _some(names),
            )  # fmt: skip
        for name in sorted({packs.backend.name for packs in self._packs.values() if packs.keeps_decoded_copy}):
            log.warning("release_frozen saves little: backend %s keeps a decoded copy of every packed weight", name)


def _checked(source: WeightSource | None, weight: torch.Tensor) -> tuple[CheckedSource | None, str]:
    if source is None:
        return None, "no local source of it is known"
    try:
        return CheckedSource(source, weight), ""
    except ValueError as error:
        return None, str(error)


def _put_back(module: nn.Module, parameter: torch.Tensor, values: torch.Tensor, release: Release) -> None:
    """Make the parameter - the same Python object, if nothing forbids - an ordinary one with these values."""
    back = nn.Parameter(values, requires_grad=release.requires_grad)
    back.__dict__.update(release.attributes)
    try:
        swap_tensors(parameter, back)  # type: ignore[no-untyped-call]
    except RuntimeError:  # a graph that is still alive refers to it, e.g. after an exception in training
        log.info("%s gets a new parameter object: something still refers to the released one", _name(release))
        module._parameters["weight"] = back


def _name(release: Release) -> str:
    return f"{release.layer.role}:{release.layer.name}"


def _by_reason(pairs: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for reason, name in pairs:
        found[reason].append(name)
    return dict(found)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f", ... ({len(names)} in all)" if len(names) > 3 else "")


def _return_memory_to_the_system() -> None:
    """glibc keeps freed blocks for later; weights will not come back before the end of the run."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        pass  # another C library: it decides for itself

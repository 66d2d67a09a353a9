"""The engine: adopts layers, and at each phase entry gives every layer its route."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..errors import UnhitLayersError
from ..interfaces import Backend, Provider, Work
from ..precision.formats import LayerFormats
from . import phases
from .adoption import LeftOut, select
from .backend_choice import BackendChoice
from .freshness import WriteWatch
from .hits import Hits, count_hits, find_unhit
from .layer import AdoptedLayer
from .packing import PackedWeights
from .phases import TRACKER
from .release import Releases, SourceOf
from .routes import GradientRoute, PackedRoute, PlainGradientRoute, PlainRoute, Route
from .training import TrainingProducts
from .work import Collector

log = logging.getLogger(__name__)

UNQUANTISED = LayerFormats()


class Engine:
    """Executes adopted layers in the formats that a provider chose for the phase in force.

    Args:
        provider: chooses the formats.
        backend: executes them, unless ``backends`` (layer pattern or prefix, perhaps with ``@phase`` -> backend;
            the first that matches) names another.
        seed: of stochastic rounding.
        policy_scoring: formats of policy passes without gradients outside generation:
            ``gradient`` or ``rollout``.
        reference: ``match`` gives the reference the formats in which the policy's log-probs are
            computed (``match_phase``), so that KL is not biased from step 0; ``own`` its ``reward`` ones.
        rank, ranks: this process among those that train together: they draw different bits for different
            micro-batches, and for the same one the same.
        gradient_product_dtype: what a float32 model's training products multiply where both operands are in an
            MX format: ``auto``, ``bfloat16`` or ``float32``, see ``product_dtype.CHOICES``.
        rolls_out_elsewhere: the policy generates in another engine (vLLM): its layers are not missed in ``rollout``.

    Raises:
        PolicyError: ``gradient_product_dtype`` is not a choice, or a phase in ``backends`` does not exist.
    """

    def __init__(
        self,
        provider: Provider,
        backend: Backend,
        backends: Mapping[str, Backend] | None = None,
        *,
        seed: int = 0,
        policy_scoring: str = phases.GRADIENT,
        reference: str = "match",
        match_phase: str = phases.GRADIENT,
        gradient_product_dtype: str = "auto",
        rank: int = 0,
        ranks: int = 1,
        rolls_out_elsewhere: bool = False,
    ) -> None:
        self.provider = provider
        self.backend = backend
        self.backends = BackendChoice(backend, backends or {})
        self.policy_scoring = policy_scoring
        self.reference = reference
        self.match_phase = match_phase
        self.rolls_out_elsewhere = rolls_out_elsewhere
        self.layers: list[AdoptedLayer] = []
        self.left_out: list[LeftOut] = []
        self.phases_run: set[str] = set()
        self.phase_in_force = phases.OTHER
        self._probed: dict[str, str] | None = None
        self.work = Collector(self.formats)
        self._packs: dict[int, PackedWeights] = {}
        self.releases = Releases(self._packs, self._asked)
        self._roots: dict[str, nn.Module] = {}
        self._products = TrainingProducts(seed, gradient_product_dtype, rank, ranks)
        self._tables: dict[str, list[tuple[AdoptedLayer, Route]]] = {}
        self._policy_names: set[str] = set()
        self._watch: WriteWatch | None = None

    @property
    def seed(self) -> int:
        """Of stochastic rounding; a new one holds for layers that are routed from then on."""
        return self._products.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self._products.seed = seed

    # ------------------------------------------------------------------ adoption

    def adopt(self, roots: Mapping[str, nn.Module]) -> None:
        """Adopt the linear layers of each role's model and start following the phases.

        Raises:
            AdoptionError: nothing to adopt, or a layer that another engine has adopted.
            PolicyError: the provider's rules, or the patterns of ``backends``, do not fit these layers.
        """
        from ..plugins import layer_types

        layers, self.left_out = select(roots, layer_types())
        self.backends.check([layer.name for layer in layers])
        self.provider.start([layer.info for layer in layers])
        self.layers, self._roots = layers, dict(roots)
        self.releases = Releases(self._packs, self._asked)
        self._products.scratch.open()
        self._policy_names = {layer.name for layer in layers if layer.role == "policy"}
        self._warn_of_unmatched_reference()
        for layer in layers:
            self._packs[id(layer)] = PackedWeights(layer, self.backends.of(layer.name, None), self.work.packed)
        self._watch = WriteWatch(roots.values(), self._trained, self.invalidate)
        TRACKER.subscribe(self.enter)
        try:
            for layer in layers:
                layer.note_sharding()
                layer.wear()
        except BaseException:
            self.restore()
            raise
        TRACKER.rest()

    def release(
        self,
        source_of: SourceOf = lambda layer: None,
        frozen_roles: Collection[str] = (),
        withheld: Mapping[int, str] | None = None,
    ) -> None:
        """Let frozen layers of one weight format give up their full-precision weights, until :meth:`restore`.

        What was released, and why the rest was not, is in ``releases`` and in the log.

        Args:
            source_of: where a layer's weight can be read again at the end, or None.
            frozen_roles: roles that nothing trains, although their parameters may say ``requires_grad``.
            withheld: id of a parameter -> why it must not be released.
        """
        self.releases.release(self.layers, self._roots, source_of, frozen_roles, withheld or {})
        self._tables.clear()
        self._products.forget()
        TRACKER.rest()

    def _warn_of_unmatched_reference(self) -> None:
        """A reference of another architecture has no layer of the policy to match."""
        if self.reference != "match" or not self._policy_names:
            return
        alone = [x.name for x in self.layers if x.role == "reference" and x.name not in self._policy_names]
        if alone:
            log.warning(
                "%d reference layers (%s, ...) have no namesake in the policy: they take their own 'reward' formats "
                "instead of matching the policy's log-probs, so KL need not start at 0",
                len(alone),
                alone[0],
            )

    def restore(self) -> None:
        """Give every module its class back and forget all packed weights; idempotent."""
        if self._watch is None:
            return
        self._watch.close()
        self._watch = None
        TRACKER.unsubscribe(self.enter)
        self.releases.restore()
        self._roots.clear()
        for layer in self.layers:
            layer.shed()
            self._packs[id(layer)].drop()
        self._tables.clear()
        self._products.scratch.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Force a phase for a ``with`` block (frameworks' adapters push ``rollout`` themselves)."""
        return TRACKER.pushed(name)

    # ------------------------------------------------------------------ formats

    def formats(self, layer: AdoptedLayer, phase: str) -> LayerFormats:
        """The formats that ``layer`` executes in ``phase``, with scoring and reference rules applied."""
        return self.releases.as_executed(layer, phases.inner(phase), self._asked(layer, phase))

    def _asked(self, layer: AdoptedLayer, phase: str) -> LayerFormats:
        phase = phases.inner(phase)
        if phase == phases.OTHER or (layer.is_lm_head and phase != phases.ROLLOUT):
            return UNQUANTISED
        role, asked = layer.role, phase
        if phase == phases.REWARD and role == "policy":
            asked = self.policy_scoring
        elif phase == phases.REWARD and role == "reference" and self.reference == "match":
            if layer.name in self._policy_names:
                role, asked = "policy", self.match_phase
        return self.provider.get_precision(layer.name, asked, role)

    def executing(self, layer: AdoptedLayer) -> LayerFormats:
        """The formats that a call of ``layer`` executes in now, a probing pass's included."""
        if self._probed is None:
            return self.formats(layer, TRACKER.phase)
        phase = self._probed.get(layer.role, phases.OTHER)
        return self.formats(layer, phases.OTHER if phase == "FP16" else phase)

    def resolved(self) -> dict[str, dict[str, dict[str, str]]]:
        """Formats by role, phase and layer, as executed: plain data for config.json."""
        answer: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
        for layer in self.layers:
            for phase in (phases.ROLLOUT, phases.REWARD, phases.GRADIENT):
                formats = self.formats(layer, phase)
                text = str(formats.forward)
                if phase == phases.GRADIENT and formats.quantised:
                    text = f"forward {formats.forward}, dgrad {formats.dgrad}, wgrad {formats.wgrad}"
                answer[layer.role].setdefault(phase, {})[layer.name] = text
        return dict(answer)

    def rollout_differs(self) -> bool:
        """Whether a layer of the policy rolls out in other formats than those of training's forward products."""
        return any(
            self.formats(layer, phases.ROLLOUT).forward != self.formats(layer, phases.GRADIENT).forward
            for layer in self.layers
            if layer.role == "policy"
        )

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the provider a step's metrics; when it asks for it, formats are chosen anew."""
        if self.provider.observe(step, metrics):
            log.info("step %d: the provider changed its mind; formats are asked for again", step)
            self.ask_again()

    def ask_again(self) -> None:
        """The provider's answers may be others from now on: ask at the next entry of each phase, and pack anew."""
        self._tables.clear()
        self._products.forget()
        self.releases.take_back_changed()
        self.invalidate()

    def advance(self, step: int) -> None:
        """A training step begins: stochastic rounding draws from its stream."""
        self._products.advance(step)
        for layer in self.layers:
            layer.note_sharding()

    # ------------------------------------------------------------------ phases

    def enter(self, phase: str) -> None:
        """Phase entry: give every layer its route (the tracker calls this)."""
        self.phase_in_force = phase
        self.phases_run.add(phase)
        table = self._tables.get(phase)
        if table is None:
            table = [(layer, self._route(layer, phase, phase)) for layer in self.layers]
            self._tables[phase] = table
        for layer, route in table:
            layer.route = route

    @contextmanager
    def probing(self, **phase_by_role: str) -> Iterator[None]:
        """Run passes in a phase's formats (or ``FP16``) without counting as that phase.

        ``probing(policy="rollout", reference="FP16")``; roles not named run unquantised. What is
        executed is booked under ``other`` and never as a hit. Gradients must be off.
        """
        with TRACKER.pushed(phases.OTHER):
            known = self._products.count
            for layer in self.layers:
                phase = phase_by_role.get(layer.role, phases.OTHER)
                layer.route = self._route(layer, phases.OTHER if phase == "FP16" else phase, phases.OTHER, False)
            # These routes end with the block: products that stayed registered would never be freed.
            self._products.forget(known)
            outer, self._probed = self._probed, phase_by_role
            try:
                yield
            finally:
                self._probed = outer

    def invalidate(self, role: str | None = None) -> None:
        """Weights (of one role, or all) were written: repack before they are used again."""
        for layer in self.layers:
            if role is None or layer.role == role:
                self._packs[id(layer)].stale = True
        # A phase may be in force, and stay so: its routes are armed anew, and look before their next call.
        for layer, route in self._tables.get(self.phase_in_force, ()):
            layer.route = route
        TRACKER.rest()

    def _trained(self) -> None:
        for layer in self.layers:
            if layer.weight.requires_grad:
                self._packs[id(layer)].stale = True

    # ------------------------------------------------------------------ routes

    def _route(self, layer: AdoptedLayer, phase: str, booked: str, training: bool | None = None) -> Route:
        """The route of ``layer`` in ``phase``, counting under ``booked``."""
        formats = self.formats(layer, phase)
        refusal = self.releases.refusal(layer, phase, formats)
        if refusal is not None:
            return refusal
        tally, backend = layer.tally(booked), self.backends.of(layer.name, phase)
        training = phases.inner(phase) == phases.GRADIENT if training is None else training
        if training:
            if not formats.quantised:
                self.work.note(tally, layer, UNQUANTISED, None)
                return PlainGradientRoute(layer.module, layer.original, layer.in_features, tally, layer.layer_type)
            self.work.note(tally, layer, formats, None)
            products = self._products.of(layer, formats, backend)
            return GradientRoute(layer.module, layer.layer_type, products, layer.in_features, tally)
        if not formats.forward.pair.quantised:
            self.work.note(tally, layer, UNQUANTISED, None)
            return PlainRoute(layer.module, layer.original, layer.in_features, tally)
        if formats.forward.pair.weights == "FP16":
            only_forward = LayerFormats(forward=formats.forward)
            self.work.note(tally, layer, only_forward, None)
            products = self._products.of(layer, only_forward, backend)
            return GradientRoute(layer.module, layer.layer_type, products, layer.in_features, tally)
        return self._armed(layer, formats, booked, backend)

    def _armed(self, layer: AdoptedLayer, formats: LayerFormats, booked: str, backend: Backend) -> Route:
        """A route that, at the phase's first call, makes sure that the packed weight is fresh."""
        packs = self._packs[id(layer)]
        forward = formats.forward
        tally = layer.tally(booked)
        packed_route: PackedRoute | None = None
        loaded: Any = None

        def arm(x: torch.Tensor) -> torch.Tensor:
            nonlocal packed_route, loaded
            pack = packs.fresh(forward, backend)
            if packed_route is None or pack is not loaded:
                bound = pack.backend.bind(pack.handle, forward.pair.activations, forward.scale_rule)
                packed_route, loaded = PackedRoute(layer.module, bound, layer.in_features, tally), pack
            self.work.note(tally, layer, LayerFormats(forward=replace(forward, rounding="nearest")), pack)
            layer.route = packed_route
            return packed_route(x)

        return arm

    # ------------------------------------------------------------------ books

    def collect(self) -> list[Work]:
        """Drain what was executed in the phase in force since the last call."""
        return self.work.drain(self.layers, self.phase_in_force)

    def hits(self) -> Hits:
        """Calls by role, phase and layer."""
        return count_hits(self.layers)

    @property
    def scratch_bytes(self) -> int:
        """Bytes held now for operands of training products; freed when the engine restores."""
        return self._products.scratch.nbytes

    def gradient_products(self) -> dict[str, Any]:
        """What the layers that train in MX formats multiply, and the memory that it takes: for config.json."""
        trained = (layer for layer in self.layers if self.formats(layer, phases.GRADIENT).quantised)
        chosen = ((self.backends.of(layer.name, phases.GRADIENT), layer) for layer in trained)
        return self._products.describe(chosen)

    def unhit(self) -> list[tuple[str, str, str]]:
        """(role, phase, layer) of every layer whose format was silently skipped."""
        return find_unhit(self.layers, self._executed_here(), lambda layer, phase: self.formats(layer, phase).quantised)

    def unbooked(self) -> list[tuple[str, str, str]]:
        """(role, phase, layer) of unquantised layers that did not execute as layers in a phase that ran.

        A fused head reads ``lm_head.weight`` itself: right as to formats, but nothing counts its MACs.
        """
        return find_unhit(
            self.layers, self._executed_here(), lambda layer, phase: not self.formats(layer, phase).quantised
        )

    def _executed_here(self) -> set[str]:
        """Phases that ran on this process's layers."""
        if not self.rolls_out_elsewhere:
            return self.phases_run
        return {phase for phase in self.phases_run if phases.inner(phase) != phases.ROLLOUT}

    def check_hits(self, unhit: list[tuple[str, str, str]] | None = None) -> None:
        """Fail when a layer's format was silently skipped.

        Args:
            unhit: what :meth:`unhit` told, of several ranks what all told; default: this process's own.

        Raises:
            UnhitLayersError: names the layers, the phase and the usual causes.
        """
        unhit = self.unhit() if unhit is None else unhit
        if unhit:
            shown = ", ".join(f"{role}:{name} in {phase}" for role, phase, name in unhit[:5])
            more = f" and {len(unhit) - 5} more" if len(unhit) > 5 else ""
            raise UnhitLayersError(
                f"{len(unhit)} adopted layers never executed in a phase that ran: {shown}{more}. Another engine "
                "(vLLM), a fused head or a replaced forward may have bypassed them; exclude them in the policy, "
                "or set on_unhit='warn' if that is expected (e.g. experts that no token chose)"
            )

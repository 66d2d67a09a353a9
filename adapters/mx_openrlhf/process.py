"""MX in one process: the engine over its models, and a ledger of what they execute."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn

from mx_plugin.config import MXConfig
from mx_plugin.errors import UnhitLayersError
from mx_plugin.execution.backend_choice import automatic
from mx_plugin.execution.engine import Engine
from mx_plugin.execution.phases import OTHER, TRACKER
from mx_plugin.interfaces import Backend
from mx_plugin.ledger import EnergyRow, Ledger
from mx_plugin.plugins import get_backend, get_meter
from mx_plugin.precision.provider_choice import make_provider

from .provider import MatchingReference

log = logging.getLogger(__name__)


class MXProcess:
    """Adopts models by role, follows their phases by the grad mode, and books what is executed.

    Args:
        config: how to quantise.
        models: role -> model; the plain Hugging Face module, not DeepSpeed's engine around it.
        seed: of stochastic rounding.

    Raises:
        AdoptionError, PolicyError, PluginError: as :class:`Engine` and the registries.
    """

    def __init__(self, config: MXConfig, models: Mapping[str, nn.Module], seed: int = 0) -> None:
        self.config = config
        self._stack = ExitStack()
        self._backends: dict[str, Backend] = {}
        self.expected: set[tuple[str, str]] = set()
        """(role, phase) that OpenRLHF asked this process for: each must have hit the role's layers."""
        with self._stack:
            provider = make_provider(config)
            if config.reference == "match" and "reference" in models and "policy" not in models:
                provider = MatchingReference(provider)
            self.engine = Engine(
                provider,
                self._backend(_default_backend(config, models)),
                {pattern: self._backend(name) for pattern, name in config.backend_patterns().items()},
                seed=seed,
                policy_scoring=config.policy_scoring,
                reference=config.reference,
                gradient_product_dtype=config.gradient_product_dtype,
            )
            meter = get_meter("modelled", target=config.energy_target, table=config.energy_table)
            self.ledger = Ledger([meter], self.engine.collect)
            self._stack.callback(self.ledger.close)
            # The ledger hears of a phase before the engine, so that packing is booked under the phase that needs it.
            TRACKER.subscribe(self.ledger.switch)
            self._stack.callback(TRACKER.unsubscribe, self.ledger.switch)
            self.engine.adopt(models)
            self._stack.callback(self.engine.restore)
            self._stack = self._stack.pop_all()
        self.ledger.start(OTHER)

    def _backend(self, name: str) -> Backend:
        """One of each name: a board can be opened once."""
        if name not in self._backends:
            self._backends[name] = get_backend(name, **self.config.options_by_backend().get(name, {}))
            self._stack.callback(self._backends[name].close)
        return self._backends[name]

    def rest(self) -> None:
        """A call of OpenRLHF's has ended: the process waits, and its next layer call enters a phase anew."""
        TRACKER.rest()

    def step_ended(self, step: int) -> list[EnergyRow]:
        """Rows of the step that ends; the next one's stochastic rounding draws from its own stream."""
        rows = self.ledger.step_end(step)
        self.engine.advance(step)
        return rows

    def check_hits(self) -> None:
        """Fail where a layer's format was skipped, or a role never executed in a phase that it was asked for.

        Raises:
            UnhitLayersError: names the layers; with ``on_unhit='warn'`` it is logged instead.
        """
        try:
            self.engine.check_hits()
            hits = self.engine.hits()
            for role, phase in sorted(self.expected):
                if not hits.get(role, {}).get(phase):
                    raise UnhitLayersError(
                        f"no layer of role {role!r} executed in phase {phase!r}, though OpenRLHF ran it there: its "
                        "model was replaced after MX adopted it"
                    )
        except UnhitLayersError as error:
            if self.config.on_unhit == "fail":
                raise
            log.warning("%s", error)

    def describe(self) -> dict[str, Any]:
        """Plain data for config.json: formats, hits and what was left out."""
        engine = self.engine
        return {
            "provider": dict(engine.provider.describe()),
            "formats": engine.resolved(),
            "gradient_products": engine.gradient_products(),
            "unquantised": sorted(
                {f"FP16[{str(layer.weight.dtype).removeprefix('torch.')}]" for layer in engine.layers}
            ),
            "left_out": [vars(item) for item in engine.left_out],
            "hits": engine.hits(),
            "unbooked": [dict(zip(("role", "phase", "layer"), place, strict=True)) for place in engine.unbooked()],
            "backend": engine.backend.name,
            "backends": [dict(backend.describe()) for backend in engine.backends.all()],
            "meters": self.ledger.describe_meters(),
            "seed": engine.seed,
        }

    def close(self) -> None:
        """Give the layers their classes back, close backends and meters. Idempotent."""
        self.ledger.stop(0)
        self._stack.close()


def _default_backend(config: MXConfig, models: Mapping[str, nn.Module]) -> str:
    """``config.backend``; for ``auto`` that of the models' device."""
    if config.default_backend != "auto":
        return config.default_backend
    return automatic(parameter.device.type for model in models.values() for parameter in model.parameters())


def merged_rows(rows: Sequence[EnergyRow]) -> list[EnergyRow]:
    """Rows of several ranks of one role as one row each: MACs, bytes and joules are summed; None stays unknown."""
    merged: dict[tuple[str, ...], EnergyRow] = {}
    for row in rows:
        key = (str(row.step), row.phase, row.role, row.format, row.dtype, row.source)
        known = merged.get(key)
        merged[key] = row if known is None else _sum(known, row)
    return list(merged.values())


def _sum(a: EnergyRow, b: EnergyRow) -> EnergyRow:
    def add(x: float | None, y: float | None) -> float | None:
        return None if x is None or y is None else x + y

    macs, moved = add(a.macs, b.macs), add(a.bytes, b.bytes)
    return EnergyRow(
        a.step,
        a.phase,
        a.role,
        a.format,
        a.dtype,
        add(a.seconds, b.seconds),
        None if macs is None else int(macs),
        None if moved is None else int(moved),
        add(a.joules, b.joules),
        a.source,
        a.estimated,
    )

"""Whose layer a module is, and the format that its call executes in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from mx_plugin.execution.adoption import canonical_name
from mx_plugin.execution.layer import adopted
from mx_plugin.execution.packed_module import held_packed
from mx_plugin.formats.spec import FP16


@dataclass(frozen=True)
class Layer:
    """A module with parameters of its own: what is timed. ``name`` is that of the plain model's module."""

    role: str
    name: str
    module: nn.Module


def layers_of(models: Mapping[str, nn.Module]) -> Iterator[Layer]:
    """Modules that hold parameters and no other modules, so that no layer's time is part of another's.

    A module that two roles share belongs to the first.
    """
    seen: set[int] = set()
    for role, model in models.items():
        for path, module in model.named_modules():
            if id(module) in seen or next(module.children(), None) is not None:
                continue
            if not any(parameter is not None for parameter in module._parameters.values()):
                continue
            seen.add(id(module))
            yield Layer(role, canonical_name(path) or type(module).__name__, module)


class Formats:
    """Formats by module, as they are executed now: ``(forward, backward)``, e.g. ``("MXFP4/MXFP8", "MXFP8/MXFP8")``.

    Without an engine, and for what it did not adopt, that is the weight's own dtype, ``FP16[float32]``.

    Args:
        engine: of the run's MXCallback, or None.
    """

    def __init__(self, engine: Any = None) -> None:
        self._engine = engine

    def of(self, module: nn.Module) -> tuple[str, str]:
        """Of a call of ``module`` in the phase in force."""
        held = held_packed(module)
        if held is not None:
            return (text := f"{held.packed.format}/{held.activations}"), text
        layer = adopted(module)
        own = _own_dtype(module)
        if layer is None or self._engine is None:
            return own, own
        formats = self._engine.executing(layer)
        forward = str(formats.forward) if formats.forward.pair.quantised else own
        dgrad, wgrad = (str(p) if p.pair.quantised else own for p in (formats.dgrad, formats.wgrad))
        return forward, dgrad if dgrad == wgrad else f"dgrad {dgrad}, wgrad {wgrad}"


def _own_dtype(module: nn.Module) -> str:
    dtype = next(parameter.dtype for parameter in module._parameters.values() if parameter is not None)
    return f"{FP16}[{str(dtype).removeprefix('torch.')}]"

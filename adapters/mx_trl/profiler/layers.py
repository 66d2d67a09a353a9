"""Seconds of each layer, forward and backward, by hooks that exist in profiled steps only."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.profiler import record_function

from mx_plugin.execution.phases import OTHER, TRACKER

from .labels import Formats, Layer

FORWARD, BACKWARD = "forward", "backward"

_MANY_NODES = 64
"""A layer adds a handful of nodes to the graph; where more are found, its inputs are not what it was given."""


class Key(NamedTuple):
    """What seconds are summed by."""

    phase: str
    role: str
    layer: str
    format: str
    direction: str

    @property
    def range(self) -> str:
        """Its name in a trace: ``policy:model.layers.0.mlp.up_proj:MXFP4/MXFP8``, with `` backward`` if it is that."""
        name = f"{self.role}:{self.layer}:{self.format}"
        return name if self.direction == FORWARD else f"{name} {BACKWARD}"


class Total(NamedTuple):
    """``seconds`` without those of layers that ran inside (a checkpointed part is computed again inside a backward)."""

    calls: int
    seconds: float


class HostTime:
    """Marks are seconds of the wall clock."""

    def mark(self) -> Any:
        return time.perf_counter()

    def settle(self) -> None:
        """Nothing is outstanding."""

    def between(self, start: Any, end: Any) -> float:
        return float(end - start)


class DeviceTime:
    """Marks are events on the current CUDA stream: the device's seconds, not those of launching."""

    def mark(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def settle(self) -> None:
        torch.cuda.synchronize()

    def between(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end)) / 1e3


class _Frame:
    __slots__ = ("counted", "key", "owner", "range", "start")

    def __init__(self, owner: object, key: Key, start: Any, counted: bool) -> None:
        self.owner, self.key, self.start, self.counted = owner, key, start, counted
        self.range = record_function(key.range)


class LayerTimer:
    """Times calls of ``layers``, and the nodes of autograd that they left, and names both in a trace.

    Forward is the module's call. Backward is the time in which autograd executes the nodes that this call added to the
    graph (with MX, its ``MXLinearFunction``); adding the result to ``.grad`` is not in it.

    Args:
        layers: see :func:`~mx_trl.profiler.labels.layers_of`.
        formats: what each executes in.
        clock: :class:`HostTime` or :class:`DeviceTime`.
    """

    def __init__(self, layers: Iterable[Layer], formats: Formats, clock: HostTime | DeviceTime) -> None:
        self._layers = list(layers)
        self._formats = formats
        self._clock = clock
        self._hooks = ExitStack()
        self._installed = False
        self._spans: list[tuple[Key, Any, Any, Key | None, bool]] = []
        self._keys: dict[tuple[int, str], tuple[Key, Key]] = {}
        self._local = threading.local()

    def install(self) -> None:
        """Hook the layers. Idempotent."""
        if self._installed:
            return
        self._installed = True
        for layer in self._layers:
            before, after = partial(self._before, layer), partial(self._after, layer)
            module = layer.module
            self._hooks.callback(
                module.register_forward_pre_hook(before, prepend=True, with_kwargs=True).remove  # type: ignore[arg-type]
            )
            self._hooks.callback(
                module.register_forward_hook(after, with_kwargs=True, always_call=True).remove  # type: ignore[arg-type]
            )

    def remove(self) -> None:
        """Unhook; a graph whose backward is still to come is no longer timed. Idempotent."""
        self._hooks.close()
        self._installed = False
        self._local = threading.local()

    def drain(self) -> dict[Key, Total]:
        """What was timed since the last call; formats are looked up anew."""
        spans, self._spans = self._spans, []
        self._keys.clear()
        if spans:
            self._clock.settle()
        calls: dict[Key, int] = {}
        seconds: dict[Key, float] = {}
        for key, start, end, outer, counted in spans:
            taken = self._clock.between(start, end)
            calls[key] = calls.get(key, 0) + counted
            seconds[key] = seconds.get(key, 0.0) + taken
            if outer is not None:
                seconds[outer] = seconds.get(outer, 0.0) - taken
        return {key: Total(calls.get(key, 0), seconds[key]) for key in seconds}

    # ------------------------------------------------------------------ forward

    def _before(self, layer: Layer, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return
        grad = torch.is_grad_enabled()
        if grad is not TRACKER.grad:
            TRACKER.saw_forward(grad)  # as the layer itself would a moment later: the call belongs to that phase
        self._enter(module, self._key(layer, module)[0], True)

    def _after(
        self, layer: Layer, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if self._leave(module) and torch.is_grad_enabled():
            self._watch_backward(self._key(layer, module)[1], (*args, *kwargs.values()), output)

    def _key(self, layer: Layer, module: nn.Module) -> tuple[Key, Key]:
        phase = TRACKER.phase
        place = (id(module), phase)
        known = self._keys.get(place)
        if known is None or phase == OTHER:  # probes run there, each in formats of its own
            forward, backward = self._formats.of(module)
            known = self._keys[place] = (
                Key(phase, layer.role, layer.name, forward, FORWARD),
                Key(phase, layer.role, layer.name, backward, BACKWARD),
            )
        return known

    # ------------------------------------------------------------------ backward

    def _watch_backward(self, key: Key, inputs: tuple[Any, ...], output: Any) -> None:
        for tensor in _tensors(output):
            root = tensor.grad_fn
            if root is None:
                continue
            for node in own_nodes(root, [given.grad_fn for given in _tensors(inputs)]):
                owner = object()
                node.register_prehook(partial(self._node_begins, owner, key, node is root))
                node.register_hook(partial(self._node_ends, owner))

    def _node_begins(self, owner: object, key: Key, counted: bool, gradients: Any) -> None:
        if self._installed:
            self._enter(owner, key, counted)

    def _node_ends(self, owner: object, gradients: Any, received: Any) -> None:
        self._leave(owner)

    # ------------------------------------------------------------------ frames

    def _frames(self) -> list[_Frame]:
        frames: list[_Frame] | None = getattr(self._local, "frames", None)
        if frames is None:
            frames = self._local.frames = []
        return frames

    def _enter(self, owner: object, key: Key, counted: bool) -> None:
        frame = _Frame(owner, key, None, counted)
        self._frames().append(frame)
        frame.range.__enter__()
        frame.start = self._clock.mark()

    def _leave(self, owner: object) -> bool:
        """False where ``owner``'s frame is not open: the hooks came in between."""
        frames = self._frames()
        if not frames or frames[-1].owner is not owner:
            return False
        end = self._clock.mark()
        frame = frames.pop()
        frame.range.__exit__(None, None, None)
        self._spans.append((frame.key, frame.start, end, frames[-1].key if frames else None, frame.counted))
        return True


def own_nodes(root: Any, inputs: Iterable[Any]) -> list[Any]:
    """Nodes of autograd from an output's ``root`` down to those of the inputs, parameters' accumulation left out.

    Empty where there are too many: then what the layer was given is not where its graph begins.
    """
    stop = {id(node) for node in inputs if node is not None}
    found: dict[int, Any] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in stop or id(node) in found or node.name().endswith("AccumulateGrad"):
            continue
        found[id(node)] = node
        if len(found) > _MANY_NODES:
            return []
        waiting += [following for following, _ in node.next_functions]
    return list(found.values())


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)

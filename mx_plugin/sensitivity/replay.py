"""Outputs of a model's blocks, kept so that what comes before a changed layer need not be computed again.

A block is an element of a ``ModuleList``: a decoder layer, say. Whatever has ended before a layer begins cannot
depend on that layer, so that its output may be taken from an earlier pass in which everything else was the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..execution.layer import AdoptedLayer

log = logging.getLogger(__name__)


class Replay:
    """Recorded passes of one model, by batch.

    Args:
        model: in eval mode; a block that draws random numbers or keeps a state must not be replayed.
        layers: the adopted layers that measurements change.
    """

    def __init__(self, model: nn.Module, layers: Sequence[AdoptedLayer]) -> None:
        self._layers = {id(layer.module): layer.name for layer in layers}
        self._blocks = [block for block in _blocks(model) if any(id(m) in self._layers for m in block.modules())]
        self._members = [layer.module for layer in layers]
        self._passes: dict[int, _Pass] = {}

    @contextmanager
    def recording(self, batch: int) -> Iterator[None]:
        """Keep what the blocks return in the ``with`` block, a forward pass over that batch."""
        taken = self._passes[batch] = _Pass()
        handles: list[Any] = []
        try:
            for module in self._members:
                handles.append(module.register_forward_pre_hook(taken.layer_begins))
            for block in self._blocks:
                handles.append(block.register_forward_hook(taken.block_ends))
            yield
        finally:
            for handle in handles:
                handle.remove()
        taken.drop_what_was_written()

    @contextmanager
    def replaying(self, batch: int, layer: AdoptedLayer) -> Iterator[int]:
        """Skip the blocks that end before ``layer`` begins; yields how many. Outside a recorded pass, none."""
        taken = self._passes.get(batch)
        outputs = {} if taken is None else taken.before(layer.module)
        skipped = [block for block in self._blocks if id(block) in outputs]
        try:
            for block in skipped:
                block.__dict__["forward"] = _Answer(outputs[id(block)])
            yield len(skipped)
        finally:
            for block in skipped:
                block.__dict__.pop("forward", None)

    @property
    def nbytes(self) -> int:
        """Bytes of all kept outputs."""
        return sum(
            t.nbytes for p in self._passes.values() for kept in p.outputs.values() for t in _tensors(kept.output)
        )


class _Kept:
    """One output, when it was made, and the versions of its tensors then."""

    def __init__(self, output: Any, ended: int) -> None:
        self.output = output
        self.ended = ended
        self._versions = [t._version for t in _tensors(output)]

    @property
    def untouched(self) -> bool:
        """False when something has written into it: a model that adds in place, say."""
        return self._versions == [t._version for t in _tensors(self.output)]


class _Pass:
    """What one recorded pass left: the order of events and the blocks' outputs."""

    def __init__(self) -> None:
        self.outputs: dict[int, _Kept] = {}
        self._began: dict[int, int] = {}
        self._clock = 0

    def layer_begins(self, module: nn.Module, _: Any) -> None:
        self._clock += 1
        self._began.setdefault(id(module), self._clock)

    def block_ends(self, module: nn.Module, _: Any, output: Any) -> None:
        self._clock += 1
        # A block that runs twice in a pass has two outputs: None says that neither may stand in for it.
        twice = id(module) in self.outputs
        self.outputs[id(module)] = _Kept(None if twice else output, self._clock)

    def drop_what_was_written(self) -> None:
        usable = {k: kept for k, kept in self.outputs.items() if kept.output is not None and kept.untouched}
        if len(usable) < len(self.outputs):
            log.info("%d blocks run twice or are written in place, and are computed anew each time",
                     len(self.outputs) - len(usable))  # fmt: skip
        self.outputs = usable

    def before(self, module: nn.Module) -> dict[int, Any]:
        """Outputs of the blocks that ended before ``module`` first began; none when it never did."""
        began = self._began.get(id(module), 0)
        return {k: kept.output for k, kept in self.outputs.items() if kept.ended < began and kept.untouched}


class _Answer:
    """A forward that returns what was kept."""

    def __init__(self, output: Any) -> None:
        self.output = output

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self.output


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The elements of every outermost ModuleList, but for those whose forward was replaced."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (block for block in child if "forward" not in block.__dict__)
        else:
            yield from _blocks(child)


def _tensors(output: Any) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, tuple | list):
        return [t for item in output for t in _tensors(item)]
    if isinstance(output, dict):
        return [t for item in output.values() for t in _tensors(item)]
    return []

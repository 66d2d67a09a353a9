"""One role's model in one phase, run with the formats that a measurement gives its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from ..execution.engine import Engine
from ..execution.layer import AdoptedLayer
from ..execution.phases import GRADIENT
from .assigned import Assigned, Assignment
from .batches import Batch
from .errors import ProfileError
from .replay import Replay


class Subject:
    """A model that was adopted by ``engine`` under ``role``; ``phase`` is what it is measured in."""

    def __init__(
        self,
        engine: Engine,
        provider: Assigned,
        model: nn.Module,
        phase: str,
        role: str,
        layers: Sequence[AdoptedLayer],
        batches: Sequence[Batch],
    ) -> None:
        self.engine = engine
        self.provider = provider
        self.model = model
        self.phase = phase
        self.role = role
        self.layers = tuple(layers)
        self.batches = tuple(batches)
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))

    @property
    def scope(self) -> str:
        """``phase/role``."""
        return f"{self.phase}/{self.role}"

    def outputs(
        self, formats: Assignment, *, record: Replay | None = None, replay: Replay | None = None, layer: str = ""
    ) -> Iterator[torch.Tensor]:
        """The model's logits, batch by batch, without gradients; those of one batch live until the next is asked for.

        Args:
            formats: of this role's layers.
            record: keeps the blocks' outputs.
            replay: lends those that come before ``layer``; everything before it must run as it ran then.
        """
        changed = next((x for x in self.layers if x.name == layer), None)
        self.provider.assign(self.role, formats)
        for number, batch in enumerate(self.batches):
            lent = replay.replaying(number, changed) if replay is not None and changed is not None else nullcontext()
            kept = record.recording(number) if record is not None else nullcontext()
            with torch.no_grad(), self.engine.probing(**{self.role: self.phase}), kept, lent:
                logits = self.run(batch)
            yield logits

    @contextmanager
    def training(self, formats: Assignment) -> Iterator[None]:
        """Gradients on, in the training products of ``formats``; random draws begin anew with each block."""
        self.provider.assign(self.role, formats)
        self.engine.observe(0, {})
        self.engine.advance(0)
        with torch.enable_grad(), self.engine.phase(GRADIENT):
            yield

    def run(self, batch: Batch) -> torch.Tensor:
        """One forward pass as things are: the model's logits."""
        return logits_of(self.model(**batch.to(self.device)))

    def never_executed(self) -> list[str]:
        """Layers that no pass has reached so far: of a format in them nothing would be seen."""
        return [x.name for x in self.layers if not any(tally.total_calls for tally in x.tallies.values())]


def logits_of(output: Any) -> torch.Tensor:
    """A tensor, or the ``logits`` of what a model returned.

    Raises:
        ProfileError: neither.
    """
    if isinstance(output, torch.Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, torch.Tensor):
        return logits
    raise ProfileError(f"the model returned a {type(output).__name__} without logits; wrap it to return them")

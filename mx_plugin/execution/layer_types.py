"""Layer classes that compute X W^T + b, and how each stores its weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class LayerType:
    """A class whose ``forward(x)`` is ``x W^T + bias`` over the last dimension.

    ``transposed``: the weight is stored (in, out), as in GPT-2's Conv1D, rather than (out, in).
    Subclasses are not covered: a subclass may compute something else, so each registers itself.
    """

    cls: type[nn.Module]
    transposed: bool = False

    def features(self, module: nn.Module) -> tuple[int, int]:
        """(in_features, out_features)."""
        rows, columns = self.parameter(module).shape
        return (rows, columns) if self.transposed else (columns, rows)

    def parameter(self, module: nn.Module) -> torch.Tensor:
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        return weight

    def weight(self, module: nn.Module) -> torch.Tensor:
        """The weight as a view of shape (out, in)."""
        stored = self.parameter(module)
        return stored.t() if self.transposed else stored

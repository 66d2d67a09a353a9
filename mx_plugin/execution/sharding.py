"""FSDP2 (``torch.distributed.fsdp.fully_shard``): what it makes of a layer's class and weight.

It puts a class of its own in front of the module's, and a DTensor, a part on each rank, in the place of its weight.
Inside the module's forward the weight is whole and an ordinary parameter, which is where MX casts it.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import nn


def plain_class(cls: type[Any]) -> type[Any]:
    """The class that ``cls`` was before ``fully_shard``, or ``cls`` itself."""
    return cls.__mro__[2] if _is_front(cls) else cls


def is_sharded(module: nn.Module) -> bool:
    """Whether ``fully_shard`` holds a weight of ``module``: whole inside a forward of its group only."""
    dtensor = _known("torch.distributed.tensor", "DTensor")
    return dtensor is not None and any(isinstance(weight, dtensor) for weight in module._parameters.values())


def in_place_of(worn: type[Any], module: nn.Module, original: type[Any]) -> type[Any]:
    """The class that leaves ``module`` as it is but for ``worn``, which becomes ``original``."""
    cls = type(module)
    if _is_front(cls) and cls.__mro__[2] is worn:  # sharded while it was adopted
        members = {name: cls.__dict__[name] for name in ("__deepcopy__", "__module__") if name in cls.__dict__}
        return type(f"FSDP{original.__name__}", (cls.__mro__[1], original), members)
    return original


def _is_front(cls: type[Any]) -> bool:
    front = _known("torch.distributed.fsdp", "FSDPModule")
    return front is not None and cls.__mro__[1:2] == (front,)


def _known(module: str, name: str) -> Any:
    """A class of torch's, or None where nobody has imported it: then nothing can be an instance of it."""
    return getattr(sys.modules.get(module), name, None)

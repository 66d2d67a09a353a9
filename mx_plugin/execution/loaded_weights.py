"""The weights that one backend has loaded: whose they are, what they hold, and the backend's counts."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar
from weakref import WeakSet

from ..errors import FormatError, PluginError
from ..formats import MXTensor
from ..interfaces import Counters, Handle


class _Closable(Protocol):
    @property
    def nbytes(self) -> int: ...

    def close(self) -> None: ...


H = TypeVar("H", bound=_Closable)


class LoadedWeights(Generic[H]):
    """Handles of type ``kind``, made by the backend class named ``owner``. ``counters`` is the backend's own record."""

    def __init__(self, owner: str, kind: type[H]) -> None:
        self.counters = Counters()
        self._owner = owner
        self._kind = kind
        self._open: WeakSet[H] = WeakSet()
        self._closed = False

    def check(self, packed: MXTensor) -> None:
        """Whether ``packed`` can be loaded: (out, in), blocked along ``in``, into a backend that is open.

        Raises:
            FormatError: not two-dimensional, or blocked along ``out``.
            PluginError: the backend is closed.
        """
        if self._closed:
            raise PluginError(f"this {self._owner} is closed; make a new one by mx_plugin.get_backend")
        shape = tuple(packed.shape)
        if len(shape) != 2:
            raise FormatError(f"a weight has shape (out, in); this one has {shape}")
        if packed.dim not in (-1, 1):
            raise FormatError(
                f"the weight {shape} is blocked along dimension {packed.dim} (out); linear needs blocks along in: "
                "quantize(weight, fmt, dim=-1)"
            )

    def add(self, handle: H) -> H:
        """Count a new handle and keep watch over it."""
        self._open.add(handle)
        self.counters.weights_loaded += 1
        self.counters.weight_bytes += handle.nbytes
        return handle

    def own(self, handle: Handle) -> H:
        """The handle, if it is one of these.

        Raises:
            PluginError: it is not.
        """
        if isinstance(handle, self._kind) and handle in self._open:
            return handle
        raise PluginError(
            f"{handle!r:.80} is not a weight loaded into this {self._owner}: use what its load_weight returned"
        )

    def count(self) -> Counters:
        """The counters now; ``extra`` has what is held."""
        held = [handle.nbytes for handle in self._open]
        now = Counters(**{**vars(self.counters), "extra": {}})
        now.extra.update(weights_held=float(sum(1 for n in held if n)), bytes_held=float(sum(held)))
        return now

    def close(self) -> None:
        """Close every handle, and load no more; idempotent."""
        for handle in list(self._open):
            handle.close()
        self._closed = True


def closed_weight() -> PluginError:
    """What a call through a closed handle raises."""
    return PluginError("the weight's handle is closed: load_weight again")


def other_length(shape: tuple[int, ...], out_features: int, in_features: int) -> FormatError:
    """What an x whose last dimension is not ``in`` raises."""
    return FormatError(
        f"x of shape {tuple(shape)} has last dimension {shape[-1]}, the weight "
        f"({out_features}, {in_features}) needs {in_features}"
    )

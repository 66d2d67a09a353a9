"""The backend ``fpga``: a board multiplies (``offload``), or the host does with the same bits (``emulate``)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray

from mx_plugin import formats
from mx_plugin.errors import FormatError, PluginError, PolicyError, nearest
from mx_plugin.formats import MXTensor
from mx_plugin.formats.cast import StochasticKey
from mx_plugin.interfaces import Backend, BoundLinear, Capabilities, Counters, Exactness, Handle

from . import arithmetic, emulation
from .activations import check_activations, multiply
from .elements import FORMATS
from .emulation import EmulatedWeight
from .errors import BoardError, DoesNotFit
from .lazy_board import LazyBoard
from .weights import BoardWeight

log = logging.getLogger(__name__)

MODES = ("offload", "verify", "emulate")
BLOCKS = 256
"""Blocks in a row for which ``emulate`` states its error bound; what the boards here take."""


class FpgaWeight:
    """A loaded weight: what ``load_weight`` returns."""

    def __init__(self, packed: MXTensor) -> None:
        self.packed = packed
        self.emulated = EmulatedWeight(packed)
        self.on_board: BoardWeight | None = None
        self.why_not_on_board = ""
        self.open = True


class EmulateBackend(Backend):
    """Computes on the host what a board would answer, bit for bit; opens no board.

    Casts are the core's reference. Weights stay packed; a decoded copy (4 bytes an element) is made at the first
    product. The bias is added in float32, then the result is rounded once to x's dtype.
    """

    name = "fpga"
    mode = "emulate"

    def __init__(self) -> None:
        self._open: WeakSet[FpgaWeight] = WeakSet()
        self._counters = Counters()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def capabilities(self) -> Capabilities:
        """The six formats on either side; no unquantised activations."""
        devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
        return Capabilities(FORMATS, FORMATS, devices, Exactness(arithmetic.error_bound(BLOCKS)))

    # ------------------------------------------------------------------ casts

    def quantize(
        self,
        x: torch.Tensor,
        fmt: str,
        dim: int = -1,
        *,
        rounding: str = "nearest",
        scale_rule: str = "floor",
        key: StochasticKey | None = None,
    ) -> MXTensor:
        """``mx_plugin.quantize``."""
        return formats.quantize(x, fmt, dim, rounding=rounding, scale_rule=scale_rule, key=key)

    def fake_quantize(
        self,
        x: torch.Tensor,
        fmt: str,
        dim: int = -1,
        *,
        rounding: str = "nearest",
        scale_rule: str = "floor",
        key: StochasticKey | None = None,
        hadamard: StochasticKey | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``mx_plugin.fake_quantize``: training products are the host's business, never the board's."""
        return formats.fake_quantize(
            x, fmt, dim, rounding=rounding, scale_rule=scale_rule, key=key, hadamard=hadamard, out=out
        )

    # ------------------------------------------------------------------ weights

    def load_weight(self, packed: MXTensor) -> FpgaWeight:
        """Take a weight of shape (out, in), blocked along ``in``.

        Raises:
            FormatError: not two-dimensional, blocked along ``out``, or in a format that no board multiplies.
            PluginError: the backend is closed.
        """
        self._check_open()
        if len(packed.shape) != 2 or packed.dim != 1:
            raise FormatError(
                f"a weight has shape (out, in) and blocks along in; this one is {tuple(packed.shape)}, blocked along "
                f"{packed.dim}: quantize(weight, fmt, dim=-1)"
            )
        if packed.format.name not in FORMATS:
            raise FormatError(f"no board multiplies {packed.format.name}: {nearest(packed.format.name, FORMATS)}")
        weight = FpgaWeight(packed)
        self._place(weight)
        self._open.add(weight)
        with self._lock:
            self._counters.weights_loaded += 1
            self._counters.weight_bytes += packed.nbytes
        return weight

    def unload_weight(self, handle: Handle) -> None:
        """Forget a weight; idempotent.

        Raises:
            PluginError: not a handle of this backend.
        """
        if not isinstance(handle, FpgaWeight):
            raise PluginError(f"{handle!r:.80} is not a weight of this backend")
        handle.open = False
        handle.emulated.forget()
        self._open.discard(handle)

    # ------------------------------------------------------------------ the product

    def linear(
        self,
        x: torch.Tensor,
        handle: Handle,
        bias: torch.Tensor | None = None,
        activations: str = "MXFP8",
        *,
        scale_rule: str = "floor",
    ) -> torch.Tensor:
        """Y = q(X) W^T + bias; x: (..., in), any floating dtype; returns (..., out) in x's dtype, on x's device.

        Raises:
            FormatError: activations that no board multiplies, x that does not fit.
            PluginError: a handle that is unloaded or of another backend.
            BoardError: the board failed (``offload``, unless ``on_failure="emulate"``).
        """
        return self.bind(handle, activations, scale_rule)(x, bias)

    def bind(self, handle: Handle, activations: str, scale_rule: str) -> BoundLinear:
        """``linear`` with the handle and the cast checked once."""
        if not isinstance(handle, FpgaWeight) or not handle.open or handle not in self._open:
            raise PluginError(f"{handle!r:.80} is not a weight loaded into this backend: use what load_weight returned")
        fmt = check_activations(activations, scale_rule)
        product = self._product_of(handle)
        shape, counters, lock = handle.packed.shape, self._counters, self._lock

        def bound(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            y = multiply(x, bias, shape, fmt, scale_rule, product)
            with lock:
                counters.linear_calls += 1
                counters.macs += x.numel() * shape[0]
            return y

        return bound

    def product_dtype(self, model_dtype: torch.dtype) -> torch.dtype:
        """float32: the host multiplies integers held in it (in float64 where they need more bits)."""
        return torch.float32

    # ------------------------------------------------------------------ what the modes differ in

    def _place(self, weight: FpgaWeight) -> None:
        """A weight was loaded."""

    def _product_of(self, weight: FpgaWeight) -> Callable[[MXTensor], NDArray[np.float32]]:
        return lambda x: emulation.product(x, weight.emulated)

    # ------------------------------------------------------------------ books

    def counters(self) -> Counters:
        """Calls, MACs and loaded weights since it was made."""
        with self._lock:
            return Counters(**{**vars(self._counters), "extra": {}})

    def describe(self) -> Mapping[str, Any]:
        """Plain data for config.json."""
        return {"backend": self.name, "mode": self.mode}

    def close(self) -> None:
        """Idempotent."""
        self._closed = True
        for weight in list(self._open):
            weight.open = False
            weight.emulated.forget()

    def _check_open(self) -> None:
        if self._closed:
            raise PluginError("this backend fpga is closed; make a new one by mx_plugin.get_backend")


class OffloadBackend(EmulateBackend):
    """The board multiplies; casts and bias are the host's.

    Weights that do not fit the board's memory together take turns there. After a failure training stops, or by
    ``on_failure="emulate"`` goes on with the same bits on the host, and the log says so.
    """

    mode = "offload"

    def __init__(self, board: LazyBoard) -> None:
        super().__init__()
        self.board = board
        self._emulated_calls = 0

    @property
    def capabilities(self) -> Capabilities:
        """What the board said of itself, once it is open."""
        can, board = super().capabilities, self.board.opened
        if board is None:
            return can
        names, hello = board.hello.format_names, board.hello
        bound = Exactness(arithmetic.error_bound(hello.max_blocks))
        return Capabilities(names, names, can.devices, bound, memory_bytes=hello.element_bytes + hello.scale_bytes)

    def product_dtype(self, model_dtype: torch.dtype) -> torch.dtype:
        """int32: a board multiplies integers of up to 18 bits and adds them up in wider ones."""
        return torch.float32 if self.board.gave_up else torch.int32

    def unload_weight(self, handle: Handle) -> None:
        """Forget a weight; its memory on the board may be used for others."""
        super().unload_weight(handle)
        if handle.on_board is not None and self.board.opened is not None:
            self.board.opened.unload_weight(handle.on_board)
        handle.on_board = None

    def _place(self, weight: FpgaWeight) -> None:
        try:
            board = self.board.get()
            if board is not None:
                weight.on_board = board.load_weight(weight.packed)
        except (DoesNotFit, FormatError) as error:
            self._keep_on_host(weight, error)
        except BoardError as error:
            self.board.failed(error)

    def _keep_on_host(self, weight: FpgaWeight, error: DoesNotFit | FormatError) -> None:
        """A weight, or its activations, that this board cannot take."""
        if self.board.on_failure == "stop":
            raise error
        weight.why_not_on_board, weight.on_board = str(error), None
        log.warning("a weight is multiplied on the host, with the same bits: %s", error)

    def _product_of(self, weight: FpgaWeight) -> Callable[[MXTensor], NDArray[np.float32]]:
        emulated = super()._product_of(weight)

        def product(x: MXTensor) -> NDArray[np.float32]:
            try:
                board = self.board.get()
                if board is not None and weight.on_board is not None:
                    return board.run(weight.on_board, x)
            except FormatError as error:
                self._keep_on_host(weight, error)
            except BoardError as error:
                self.board.failed(error)
            self._emulated_calls += 1
            return emulated(x)

        return product

    def counters(self) -> Counters:
        """``extra``: calls that the host computed, and the board's traffic."""
        now = super().counters()
        now.extra["emulated_calls"] = float(self._emulated_calls)
        now.extra.update(board_traffic(self.board))
        return now

    def describe(self) -> Mapping[str, Any]:
        """Plain data for config.json: the mode, the board, the link's statistics, and why the board was given up."""
        return {**super().describe(), **self.board.describe(), "emulated_calls": self._emulated_calls}

    def conclusion(self) -> str:
        """How many products the board multiplied, how many the host did, and why."""
        board = self.board.opened
        gave_up = self.board.gave_up
        on_board = f"the board was given up: {gave_up}" if gave_up else "the board was not needed"
        if board is not None:
            done = board.traffic
            on_board = f"board {board.name} multiplied {done.runs} times, {done.tokens} tokens"
        return f"{on_board}; the host, with the same bits, {self._emulated_calls} times"

    def close(self) -> None:
        """Close the board too; idempotent."""
        super().close()
        self.board.close()


def board_traffic(lazy: LazyBoard) -> dict[str, float]:
    """The numbers of a board and its link, for ``Counters.extra``."""
    board = lazy.opened
    if board is None:
        return {}
    numbers = {**vars(board.traffic), **{f"link_{name}": n for name, n in vars(board.link.statistics).items()}}
    return {f"board_{name}": float(number) for name, number in numbers.items()} | {
        "board_evictions": float(board.memory.evictions)
    }


def make_backend(
    mode: str = "offload",
    url: str | None = None,
    *,
    board: str | None = None,
    on_failure: str = "stop",
    on_mismatch: str = "warn",
    share: float = 0.05,
    tokens: int = 8,
    executor: str = "cpu",
    **board_options: Any,
) -> Backend:
    """The backend ``fpga``.

    Args:
        mode: ``offload``, ``verify`` or ``emulate``.
        url: serial URL of the board, opened at once; default ``$MX_FPGA_URL`` or ``sim:``, opened when first needed.
        board: name of a registered board, for one that needs more than a URL.
        on_failure: ``stop`` or ``emulate``: what to do when the board fails.
        on_mismatch: ``warn`` or ``fail``: what ``verify`` does when results differ.
        share: of calls that ``verify`` mirrors, in (0, 1]; the first call of every weight always is.
        tokens: rows of a mirrored call that are sent at most.
        executor: the backend whose results ``verify`` returns.
        **board_options: of the board's link: ``baudrate``, ``timeout_s``, ``retries``, ...

    Raises:
        PolicyError: a choice that does not exist.
        BoardError: the board cannot be opened.
    """
    if mode not in MODES:
        raise PolicyError(f"mode={mode!r} is not a choice: {nearest(mode, MODES)}")
    if mode == "emulate":
        if url or board:
            log.info("mode emulate opens no board: %s is not used", url or board)
        return EmulateBackend()
    if mode == "offload":
        return OffloadBackend(LazyBoard(url, board, on_failure, board_options))
    from .verify import VerifyBackend

    return VerifyBackend(
        executor, LazyBoard(url, board, on_failure, board_options), share=share, tokens=tokens, on_mismatch=on_mismatch
    )

"""The native kernels as loaded by ctypes: the C structs of ``native/types.hpp`` and the library's functions."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_uint32, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mx_plugin.errors import PluginError, nearest
from mx_plugin.formats.decode import element_table
from mx_plugin.formats.philox import StochasticKey
from mx_plugin.formats.rules import CastRule
from mx_plugin.formats.spec import Element

from .build import LEVELS, LIBRARY, SOURCES, source_hash

ISA_VARIABLE = "MX_CPU_ISA"
"""Environment variable that forces a level (``scalar``, ``avx2``, ``avx512``, ``amx``)."""

LIBRARY_VARIABLE = "MX_CPU_LIBRARY"
"""Environment variable that names another build of the library to load, such as the one for sanitizers."""

BF16_LEVELS = ("avx512", "amx")
"""Levels on which the processor multiplies bfloat16."""

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""``MxType`` of the dtypes that the kernels read and write."""

BLOCK = 32
"""The block size that the kernels are written for."""


class NativeUnavailable(PluginError):
    """The native kernels cannot run here; the message says why and the remedy."""


class Rule(Structure):
    """``MxRule``."""

    _fields_ = [
        ("bits", c_int32),
        ("mantissa_bits", c_int32),
        ("emin", c_int32),
        ("max_code", c_int32),
        ("is_integer", c_int32),
        ("offset", c_int32),
        ("doubled", c_int32),
        ("max", c_float),
    ]

    @classmethod
    def of(cls, rule: CastRule) -> Rule:
        """The constants of a cast."""
        element = rule.format.element
        return cls(
            element.bits,
            element.mantissa_bits,
            element.emin,
            rule.max_code,
            rule.is_integer,
            rule.offset,
            rule.doubled,
            rule.max,
        )


class Key(Structure):
    """``MxKey``; all zeros means that it is not used."""

    _fields_ = [("on", c_uint32), ("seed", c_uint32), ("step", c_uint32), ("stream", c_uint32), ("call", c_uint32)]

    @classmethod
    def of(cls, key: StochasticKey | None) -> Key:
        """The words of a key."""
        return cls() if key is None else cls(1, key.seed, key.step, key.stream, key.call)


class Cast(Structure):
    """``MxCast``."""

    _fields_ = [
        ("rule", Rule),
        ("rounding", Key),
        ("hadamard", Key),
        ("source", c_void_p),
        ("values", c_void_p),
        ("elements", c_void_p),
        ("scales", c_void_p),
        ("before", c_int64),
        ("length", c_int64),
        ("after", c_int64),
        ("out_length", c_int64),
        ("source_type", c_int32),
        ("values_type", c_int32),
        ("threads", c_int32),
        ("transposed", c_int32),
    ]


class Decode(Structure):
    """``MxDecode``."""

    _fields_ = [
        ("rule", Rule),
        ("table", c_void_p),
        ("elements", c_void_p),
        ("scales", c_void_p),
        ("values", c_void_p),
        ("rows", c_int64),
        ("length", c_int64),
        ("values_type", c_int32),
        ("threads", c_int32),
        ("ordinary", c_int32),
    ]


class Linear(Structure):
    """``MxLinear``."""

    _fields_ = [
        ("weight_rule", Rule),
        ("activation_rule", Rule),
        ("table", c_void_p),
        ("elements", c_void_p),
        ("scales", c_void_p),
        ("out_features", c_int64),
        ("in_features", c_int64),
        ("quantised", c_int32),
        ("exact", c_int32),
    ]


class Library:
    """The loaded library. ``cast``, ``decode`` and ``linear`` take addresses; nothing is checked there.

    They raise MemoryError where there is no memory for their work space: what they should have written is then
    undefined, and nothing else has changed.
    """

    def __init__(self, path: Path) -> None:
        dll = ctypes.CDLL(str(path))
        for name in ("mx_level", "mx_sources"):
            getattr(dll, name).restype = c_char_p
        dll.mx_sizes.restype = c_int64
        self._dll = dll
        self._check(path)
        self.cast: Callable[[Cast], None] = _kernel(dll.mx_cast, POINTER(Cast))
        self.decode: Callable[[Decode], None] = _kernel(dll.mx_decode, POINTER(Decode))
        numbers = (c_int64, c_int32, c_int32, c_int32)
        self.linear: Callable[..., None] = _kernel(dll.mx_linear, *[c_void_p] * 4, *numbers)
        self._special = dll.mx_has_special
        self._special.argtypes = [POINTER(Rule), c_void_p, c_int64]
        self.pool = _torch_pool()
        if self.pool is not None:
            _function(dll.mx_use_pool, c_void_p)(self.pool)
        forced = os.environ.get(ISA_VARIABLE)
        if forced:
            self.set_level(forced)

    def _check(self, path: Path) -> None:
        sizes = ctypes.sizeof(Cast) * 1_000_000 + ctypes.sizeof(Decode) * 1000 + ctypes.sizeof(Linear)
        built = self._dll.mx_sources().decode()
        if self._dll.mx_sizes() != sizes or (SOURCES.is_dir() and built != source_hash()):
            raise NativeUnavailable(f"{path} was built from other sources: rebuild it with python -m mx_cpu.build")

    def has_special_codes(self, rule: Rule, codes: torch.Tensor) -> bool:
        """Whether any 8-bit code is one that no cast makes: NaN, infinity, or INT8's -2."""
        return bool(rule.bits == 8 and self._special(rule, codes.data_ptr(), codes.numel()))

    @property
    def level(self) -> str:
        """The instruction-set level in use."""
        return str(self._dll.mx_level().decode())

    def set_level(self, name: str | None) -> None:
        """Use another level, None the best.

        Raises:
            NativeUnavailable: no such level, or this processor cannot run it.
        """
        status = self._dll.mx_set_level(None if name is None else name.encode())
        if status == 1:
            raise NativeUnavailable(f"unknown level {name!r}: {nearest(str(name), tuple(LEVELS))}")
        if status == 2:
            raise NativeUnavailable(f"this processor cannot run level {name!r}; unset {ISA_VARIABLE}")

    @contextmanager
    def at_level(self, name: str) -> Iterator[None]:
        """Use another level within a ``with`` block; process-wide, for tests and benchmarks."""
        before = self.level
        self.set_level(name)
        try:
            yield
        finally:
            self.set_level(before)


def _function(function: Any, *arguments: Any) -> Any:
    function.argtypes = list(arguments)
    function.restype = None
    return function


def _kernel(function: Any, *arguments: Any) -> Any:
    function.argtypes = list(arguments)
    function.restype = _done
    return function


def _done(status: int) -> None:
    if status:
        raise MemoryError(
            "the native kernels found no memory for their work space: use a smaller batch or fewer threads"
        )


def _torch_pool() -> int | None:
    """Address of GOMP_parallel in the OpenMP library that torch has loaded, or None (then threads are started)."""
    if not hasattr(os, "RTLD_NOLOAD"):
        return None
    try:
        gomp = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
        return ctypes.cast(gomp.GOMP_parallel, c_void_p).value
    except (OSError, AttributeError):
        return None


@cache
def library() -> Library:
    """The library, loaded once.

    Raises:
        NativeUnavailable: it was not built, is out of date, or cannot be loaded.
    """
    named = os.environ.get(LIBRARY_VARIABLE)
    path = Path(named) if named else LIBRARY
    if not path.is_file():
        why = f"{LIBRARY_VARIABLE} names it" if named else "no C++ compiler at install time?"
        raise NativeUnavailable(
            f"{path if named else path.name} was not built ({why}): "
            "install g++ or clang++ and run python -m mx_cpu.build"
            + (f", or unset {LIBRARY_VARIABLE}" if named else "")
        )
    try:
        return Library(path)
    except (OSError, AttributeError) as error:
        raise NativeUnavailable(f"{path} cannot be loaded: {error}; run python -m mx_cpu.build") from error


def available() -> bool:
    """Whether the native kernels can run here."""
    try:
        library()
    except NativeUnavailable:
        return False
    return True


def table_of(element: Element) -> torch.Tensor:
    """Values by code, float32, kept alive by the core's cache."""
    return element_table(element, torch.device("cpu"))

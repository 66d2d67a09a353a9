"""The MX formats: what they are, the reference cast, and tensors packed in them."""

from .autograd import fake_quantize
from .cast import StochasticKey, quantize
from .spec import Element, Format, Pair, format_names, get_format, parse_pair, register_format
from .tensor import MXTensor

__all__ = [
    "quantize",
    "fake_quantize",
    "MXTensor",
    "Format",
    "Element",
    "register_format",
    "get_format",
    "format_names",
    "parse_pair",
    "Pair",
    "StochasticKey",
]

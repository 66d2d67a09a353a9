"""What a policy writes down for one phase, and the three products that it stands for.

An entry is a format name (``MXFP4``), a pair (``MXFP4/MXFP8``) or, for ``gradient`` alone, one
:class:`ProductEntry` for each of the three products.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import FormatError, PolicyError, nearest
from ..formats.spec import FP16, ROUNDINGS, SCALE_RULES, Pair, canonical, get_format, parse_pair
from .formats import PHASES, UNQUANTISED, LayerFormats, Product

PRODUCTS = ("forward", "dgrad", "wgrad")


def canonical_entry(text: object) -> str:
    """Canonical spelling of a name or pair as a policy writes it; ``FP16/FP16`` becomes ``FP16``.

    Raises:
        PolicyError: not text, or a format that is not known.
    """
    if not isinstance(text, str):
        raise PolicyError(f"{text!r} is not a format: write a name such as MXFP4 or a pair such as MXFP4/MXFP8")
    try:
        if "/" not in text:
            return canonical(text)
        return str(parse_pair(text))
    except FormatError as error:
        raise PolicyError(str(error)) from None


def check_word(kind: str, word: object, valid: tuple[str, ...]) -> None:
    """Raise PolicyError, with the nearest valid word, unless ``word`` is one of ``valid``."""
    if word not in valid:
        raise PolicyError(f"unknown {kind} {word!r}: {nearest(str(word), valid)}")


def inner_phase(phase: str) -> str:
    """The phase within an ``eval/`` qualifier.

    Raises:
        PolicyError: not a phase that a policy names.
    """
    inner = phase.removeprefix("eval/")
    check_word("phase", inner, PHASES)
    return inner


@dataclass(frozen=True)
class ProductEntry:
    """One product of ``gradient``: its pair and how the operands are rounded.

    ``format``: a pair, or FP16. Operands in the order of the pair: forward W/X, dgrad W/dY, wgrad
    X/dY. ``rounding`` None means the product's default, ``scale_rule`` None the policy's.
    ``hadamard`` turns both operands by a random Hadamard transform of size 32 before the cast.

    Raises:
        PolicyError: unknown format, rounding or scale rule; a name where a pair is due; a transform
            with an operand that is not quantised in blocks of 32.
    """

    format: str
    rounding: str | None = None
    scale_rule: str | None = None
    hadamard: bool = False

    def __post_init__(self) -> None:
        entry = canonical_entry(self.format)
        if entry != FP16 and "/" not in entry:
            raise PolicyError(
                f"{self.format!r} names one operand of a product that has two; write both, e.g. '{entry}/MXFP8'"
            )
        object.__setattr__(self, "format", entry)
        if self.rounding is not None:
            check_word("rounding", self.rounding, ROUNDINGS)
        if self.scale_rule is not None:
            check_word("scale_rule", self.scale_rule, SCALE_RULES)
        if not isinstance(self.hadamard, bool):
            raise PolicyError(f"hadamard is {self.hadamard!r}; write true or false")
        if self.hadamard and not all(_takes_hadamard(side) for side in entry.split("/")):
            raise PolicyError(
                f"hadamard turns both operands, which {entry!r} does not quantise in blocks of 32; "
                "give both a block format or leave hadamard out"
            )

    def product(self, which: str, scale_rule: str) -> Product:
        """The cast of the product ``which`` under a policy whose rule is ``scale_rule``."""
        pair = parse_pair(self.format)
        if not pair.quantised:
            return UNQUANTISED
        rounding = self.rounding or _default_rounding(which, pair)
        return Product(pair, rounding, self.scale_rule or scale_rule, self.hadamard)


@dataclass(frozen=True)
class GradientEntry:
    """All three products of ``gradient``, each spelled out."""

    forward: ProductEntry
    dgrad: ProductEntry
    wgrad: ProductEntry


Entry = str | GradientEntry


def layer_formats(entry: Entry, phase: str, activations: str, scale_rule: str) -> LayerFormats:
    """What an entry means in a phase.

    A name F, with A the policy's ``activations``: forward W/X = F/A; in ``gradient`` also dgrad
    W/dY = F/A and wgrad X/dY = A/A. A pair F/A says its own A. FP16 leaves every product alone.
    """
    if isinstance(entry, GradientEntry):
        return LayerFormats(
            entry.forward.product("forward", scale_rule),
            entry.dgrad.product("dgrad", scale_rule),
            entry.wgrad.product("wgrad", scale_rule),
        )
    pair = parse_pair(entry, activations)
    if not pair.quantised:
        return LayerFormats()
    forward = Product(pair, "nearest", scale_rule)
    if phase != "gradient":
        return LayerFormats(forward)
    both = Pair(pair.activations, pair.activations)
    return LayerFormats(forward, _backward("dgrad", pair, scale_rule), _backward("wgrad", both, scale_rule))


def _backward(which: str, pair: Pair, scale_rule: str) -> Product:
    return Product(pair, _default_rounding(which, pair), scale_rule) if pair.quantised else UNQUANTISED


def _default_rounding(which: str, pair: Pair) -> str:
    # Four-bit gradient operands rounded to nearest are biased enough to stall training: Tseng et al.,
    # "Training LLMs with MXFP4" (2025), make them unbiased by stochastic rounding.
    four_bits = any(side != FP16 and get_format(side).element.bits <= 4 for side in (pair.weights, pair.activations))
    return "stochastic" if which != "forward" and four_bits else "nearest"


def _takes_hadamard(side: str) -> bool:
    return side != FP16 and get_format(side).block_size == 32

"""Several processes that train together, under accelerate or torchrun: one set of books, one choice of formats."""

from .once import computed_once
from .ranks import Ranks, RanksError, join_ranks

__all__ = ["Ranks", "RanksError", "computed_once", "join_ranks"]

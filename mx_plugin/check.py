"""One line of ``mx-plugin doctor``. Apart from ``interfaces``, so that doctor can say that torch is missing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One line of ``mx-plugin doctor``.

    ``status``: ``ok``; ``warn``, something optional is absent or odd; ``missing``, something required is
    absent or broken, which makes doctor exit with status 1. ``remedy`` says what to do about it.
    """

    name: str
    status: str
    detail: str
    remedy: str = ""

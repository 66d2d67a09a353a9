"""What blocks of the docs need: a real trainer of the embedded model, and Verilator."""

from __future__ import annotations

from tests.fpga.conftest import verilator
from tests.trl.conftest import embedded, make_ppo, ppo_imported

__all__ = ["embedded", "make_ppo", "ppo_imported", "verilator"]

"""The ledger: windows of time, energy rows, meters, and the files of a run folder.

The meters themselves (``modelled``, ``zeus``) are made by name through the plugin registry, and are
not imported here.
"""

from .energy_table import EnergyTable, load_table
from .folder import EXTRA_METRICS, METRICS, RunFolder
from .ranks import sum_over_ranks
from .rows import ALL, COLUMNS, EnergyRow
from .summary import Joules, PhaseSummary, overall, summarise
from .table import closing_table
from .windows import Ledger

__all__ = [
    "ALL",
    "COLUMNS",
    "EXTRA_METRICS",
    "METRICS",
    "EnergyRow",
    "EnergyTable",
    "Joules",
    "Ledger",
    "PhaseSummary",
    "RunFolder",
    "closing_table",
    "load_table",
    "overall",
    "sum_over_ranks",
    "summarise",
]

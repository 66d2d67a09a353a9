"""Policy search: the cheapest policy within a budget for each phase and role, and the fronts it is chosen from.

>>> matrix = SensitivityMatrix.read("sensitivity_matrix.csv")
>>> result = search(matrix, {"rollout": 0.02}, Bytes(), shapes_of(matrix))
>>> result.policy().to_yaml("policy.yaml")
"""

from __future__ import annotations

from .additivity import ScopeVerdict, verify
from .budget import parse_budgets
from .energy import EnergyObjective
from .groups import Allowed
from .objective import Bytes, Objective, Place, packed_bytes
from .recipe import Recipe
from .result import ScopeResult, SearchResult
from .search import search
from .seconds import SecondsObjective, SecondsTable
from .shapes import Shape, Shapes, check_layers, folder_shapes, layer_shapes, shapes_of

__all__ = [
    "search",
    "SearchResult",
    "ScopeResult",
    "Allowed",
    "parse_budgets",
    "Objective",
    "Place",
    "Bytes",
    "EnergyObjective",
    "SecondsObjective",
    "SecondsTable",
    "Recipe",
    "Shape",
    "Shapes",
    "shapes_of",
    "folder_shapes",
    "layer_shapes",
    "check_layers",
    "packed_bytes",
    "verify",
    "ScopeVerdict",
]

"""Rewards beside reward models: rules over text, their sums and shaping, and the module that makes PPO accept one."""

from __future__ import annotations

from .composite import Composite
from .find import find_rule, rule_words, shared_rules
from .module import RuleReward
from .rules import Rule, columns_of, rule_name
from .verifiable import RightNumber, last_number

__all__ = [
    "Composite",
    "RightNumber",
    "Rule",
    "RuleReward",
    "columns_of",
    "find_rule",
    "last_number",
    "rule_name",
    "rule_words",
    "shared_rules",
]

"""Rewards beside reward models: rules over text, and the module that makes PPO accept one."""

from __future__ import annotations

from .module import RuleReward
from .rules import Rule, find_rule

__all__ = ["Rule", "RuleReward", "find_rule"]

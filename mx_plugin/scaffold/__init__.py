"""``mx-plugin new``: writes a package with a plugin that works, for its author to make theirs."""

from .names import PluginNames, check_free
from .write import KINDS, write_package

__all__ = ["KINDS", "PluginNames", "check_free", "write_package"]

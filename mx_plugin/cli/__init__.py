"""The command ``mx-plugin``. Every subcommand comes through the hook ``mx_register_commands``."""

from .main import main

__all__ = ["main"]

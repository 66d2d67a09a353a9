"""What mx_fpga registers with mx-plugin. Imports no torch."""

from __future__ import annotations

MX_PLUGIN_INTERFACE = (1, 0)

"""``python -m mx_trl.experiments.evaluate``: ``mx-plugin evaluate`` that does not outlive its experiment."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from mx_plugin.cli import main
from mx_plugin.experiments.child import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(["evaluate", *sys.argv[1:]]))

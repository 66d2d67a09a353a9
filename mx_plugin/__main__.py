"""``python -m mx_plugin`` is ``mx-plugin``."""

from .cli import main

raise SystemExit(main())

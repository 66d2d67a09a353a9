"""The embedded model, made once."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def embedded_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the embedded policy."""
    from mx_trl.embedded import build

    return build(tmp_path_factory.mktemp("embedded") / "made").policy

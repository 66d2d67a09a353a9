"""What every process of an experiment finds in its environment."""

from __future__ import annotations


def environment(threads: int) -> dict[str, str]:
    """Variables beside those of this process; ``threads``: how many a process may use."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "PYTHONUNBUFFERED": "1",
    }

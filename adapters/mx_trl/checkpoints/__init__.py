"""Checkpoints from which training goes on bit for bit, and the files of a run."""

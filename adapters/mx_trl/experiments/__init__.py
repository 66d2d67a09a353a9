"""Experiments on TRL's stages: what ``mx-plugin experiment`` runs, one process per policy, control and seed."""

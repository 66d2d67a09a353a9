"""Benches that need a framework: ``decode`` (transformers' generate) and ``step`` (TRL's PPOTrainer)."""

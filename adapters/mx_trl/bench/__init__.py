"""Benches that need a framework: ``decode`` (transformers' generate), ``step`` (TRL's PPOTrainer) and ``profiler``."""

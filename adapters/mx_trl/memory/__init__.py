"""The memory planner: what a stage needs in each phase, from a model's config alone. See docs/memory.md."""

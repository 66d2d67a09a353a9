"""The profiler: where a run's time and memory go, by phase, role, layer and format."""

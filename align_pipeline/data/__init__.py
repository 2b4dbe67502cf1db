"""Rows from the hub, a folder or the package, and the benchmarks made of them: one file a task."""

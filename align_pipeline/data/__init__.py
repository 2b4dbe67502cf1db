"""Rows from the hub, a folder or the package, and the benchmarks that turn them into items; one file per task."""

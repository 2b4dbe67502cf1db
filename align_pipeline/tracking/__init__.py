"""Reporting of a job's progress and results: console, log files, Weights & Biases."""

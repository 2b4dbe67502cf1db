"""The report, built from tables only."""

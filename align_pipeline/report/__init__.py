"""The report, from tables alone."""

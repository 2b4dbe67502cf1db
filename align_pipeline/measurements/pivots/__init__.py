"""Alignment with other languages than English."""

"""Tests whether a language model aligns other languages with English, and whether that affects its accuracy."""

__version__ = "0.1.0"

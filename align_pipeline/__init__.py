"""Tests whether a language model aligns other languages with English, and whether that affects its accuracy.

From Python: `study` measures a model in memory, `AlignmentCallback` measures one while transformers' Trainer trains it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from align_pipeline.api import AlignmentCallback, Results, study

__version__ = "0.1.0"
__all__ = ["AlignmentCallback", "Results", "__version__", "study"]


def __getattr__(name: str) -> Any:
    """Load the Python interface at first use, so that importing the package loads no torch."""
    if name in ("AlignmentCallback", "Results", "study"):
        return getattr(import_module("align_pipeline.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""What a job can measure: a folder each, from what is computed to its section of the report."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from align_pipeline.measurements.base import Measurement

BUILT_IN = (
    "align_pipeline.measurements.alignment.measure:Alignment",
    "align_pipeline.measurements.accuracy.measure:Accuracy",
    "align_pipeline.measurements.translation.measure:Translations",
    "align_pipeline.measurements.patching.measure:Patching",
    "align_pipeline.measurements.translation_patching.measure:TranslationPatching",
)
"""In the order in which a job goes through them; a later one may read the tables of those before it."""
GROUP = "align_pipeline.measurements"
"""The group of entry points by which another package adds its own, behind these."""


def registered() -> list[type[Measurement]]:
    """All measurements."""
    added = [point.value for point in metadata.entry_points(group=GROUP)]
    found = []
    for name in [*BUILT_IN, *added]:
        module, _, attribute = name.partition(":")
        found.append(getattr(import_module(module), attribute))
    return found

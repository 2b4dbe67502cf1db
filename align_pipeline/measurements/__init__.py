"""The measurements: each has a folder with its computation, table, figures and section of the report."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from align_pipeline.measurements.base import Measurement
    from align_pipeline.page.part import Section

BUILT_IN = (
    "align_pipeline.measurements.alignment.measure:Alignment",
    "align_pipeline.measurements.representations.measure:Representations",
    "align_pipeline.measurements.logit_lens.measure:LogitLens",
    "align_pipeline.measurements.accuracy.measure:Accuracy",
    "align_pipeline.measurements.pivots.measure:Pivots",
    "align_pipeline.measurements.translation.measure:Translations",
    "align_pipeline.measurements.patching.measure:Patching",
    "align_pipeline.measurements.translation_patching.measure:TranslationPatching",
)
"""In the order in which a job runs them; each may read the tables of those before it."""
SECTIONS = tuple(
    f"align_pipeline.measurements.{name}.section:SECTION"
    for name in (
        "translation",
        "alignment",
        "representations",
        "logit_lens",
        "patching",
        "translation_patching",
        "accuracy",
        "pivots",
    )
)
"""In the order of the report page."""
GROUP, SECTION_GROUP = "align_pipeline.measurements", "align_pipeline.sections"
"""Groups of entry points for measurements and sections of other packages; they come after the built-in ones."""


def registered() -> list[type[Measurement]]:
    """All measurements."""
    return _named(BUILT_IN, GROUP)


def sections() -> list[Section]:
    """Each measurement's section of the report, with the tables that the report reads; does not import torch."""
    return _named(SECTIONS, SECTION_GROUP)


def _named(built_in: Sequence[str], group: str) -> list[Any]:
    own = [metadata.EntryPoint(name, name, group) for name in built_in]
    return [point.load() for point in (*own, *metadata.entry_points(group=group))]

"""The section of the report."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

from markupsafe import Markup

from align_pipeline.measurements.patching import figures
from align_pipeline.measurements.patching.section import named
from align_pipeline.measurements.patching.statistics import MIDDLE
from align_pipeline.measurements.translation_patching.table import TRANSLATION_PATCHING
from align_pipeline.page.part import Part, Section
from align_pipeline.page.template import render


def _show(part: Part) -> Markup:
    """Patched translation."""
    if part.of("translation_patching_effects").empty:
        return Markup()
    return render("align_pipeline/measurements/translation_patching/section.html", kinds=list(_kinds(part)))


def _kinds(part: Part) -> Iterator[SimpleNamespace]:
    """The template's values for each direction and kind of patch."""
    same = figures.KIND_TRANSLATION[2:]
    for key, rows in part.of("translation_patching_effects").groupby(figures.KIND_TRANSLATION, sort=False):
        table, against = (
            own[(own[same] == list(key[2:])).all(axis="columns")]
            for own in (part.of("translation_patching"), part.of("translation_patching_contrasts"))
        )
        yield SimpleNamespace(
            kind=f"{key[2]}, {figures.kind_name(next(rows.itertuples()))}",
            image=part.draw(partial(figures.translation, rows), "translation_patching", *map(str, key[2:])),
            table=named(table),
            against=named(against[against["at"] == MIDDLE]),
        )


SECTION = Section(
    "translation_patching",
    TRANSLATION_PATCHING.remove(TRANSLATION_PATCHING.get_field_index("hypothesis")),
    _show,
)

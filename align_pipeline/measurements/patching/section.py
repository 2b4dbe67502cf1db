"""The section of the report."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pandas as pd
from markupsafe import Markup

from align_pipeline.config.lang import name_of
from align_pipeline.config.patch import MAPS, TREATMENT, is_kept, is_placebo, map_of, treatment_of
from align_pipeline.data.items import ENGLISH
from align_pipeline.measurements.patching import figures
from align_pipeline.measurements.patching.pivots import EVERY
from align_pipeline.measurements.patching.statistics import MIDDLE
from align_pipeline.measurements.patching.table import PATCHING
from align_pipeline.page.part import Part, Section
from align_pipeline.page.template import render


def _show(part: Part) -> Markup:
    """Patching: does misalignment cause errors?"""
    if not (part.of("patching_effects")["n_tf"] > 0).any():
        return Markup()
    pivots = part.of("patching_pivots")
    return render(
        "align_pipeline/measurements/patching/section.html",
        kinds=list(_kinds(part)),
        pivots=pivots.assign(language=pivots["language"].replace(EVERY, "all languages")) if len(pivots) else None,
        leads=list(_leads(pivots)),
    )


def _kinds(part: Part) -> Iterator[SimpleNamespace]:
    """The template's values for each kind of patch."""
    found = part.of("patching")
    for _, rows in part.of("patching_effects").groupby(figures.KIND, sort=False):
        row = next(rows.itertuples())
        pivot = str(row.pivot_language)
        same = [column for column in ("pivot_language", "component", "site", "window") if column in found]
        table, against, categories = (
            own[(own[same] == rows[same].iloc[0]).all(axis="columns")]
            for own in (found, part.of("patching_contrasts"), part.of("patching_categories"))
        )
        against = against[(against["head"] < 0) & (against["at"] == MIDDLE)]
        against = against.assign(condition=[treatment_of(str(control)) for control in against["control"]])
        of_map = against["control"].map(is_placebo).astype(bool)
        table, kept = (table[table["condition"].map(is_kept) == which] for which in (False, True))
        words = ["patching", str(row.component), str(row.site), str(row.window), *([pivot] if pivot != ENGLISH else [])]
        by_category = categories["category"].nunique() > 1 and not (categories["head"] >= 0).any()
        yield SimpleNamespace(
            kind=figures.kind_name(row),
            pivot=name_of(pivot),
            finding=_finding(table, TREATMENT),
            learned=_learned(table),
            images=[part.draw(draw, *words, name) for name, draw in figures.figures(rows)],
            table=named(table, pivot),
            by_head=(table["head"] >= 0).any(),
            against=named(against[~of_map], pivot),
            placebos=named(against[of_map]),
            kept=named(kept),
            categories=named(_at_best(categories, table), pivot) if by_category else categories.head(0),
        )


def _learned(table: pd.DataFrame) -> list[SimpleNamespace]:
    """The effect of each map over all languages, if its placebos were run too."""
    names = [name for name in table["condition"].unique() if map_of(name) and not is_placebo(name)]
    found = (_finding(table, name) for name in sorted(names, key=lambda one: (MAPS.index(map_of(one)), one)))
    return [one for one in found if one is not None]


def _finding(table: pd.DataFrame, treatment: str) -> SimpleNamespace | None:
    """A treatment's effect over all languages; None if no control isolates the effect of the concept (or map)."""
    treated = table[(table["condition"] == treatment) & table["attributable"].notna() & (table["head"] < 0)]
    if treated.empty:
        return None
    n = int(treated["n_tf"].sum())
    return SimpleNamespace(
        name=figures.condition_name(treatment),
        n=n,
        languages=len(treated),
        corrected=float((treated["middle_correction"] * (treated["n_tf"] / n)).sum()),
        clear=int((treated["attributable_low"] > 0).sum()),
    )


def _at_best(rates: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Correction rates per category at each condition's best layer."""
    keys = ["language", "pivot", "condition"]
    best = table.rename(columns={"best_layer": "layer"})[[*keys, "layer"]].dropna()
    return rates.astype({"layer": float}).merge(best.astype({"layer": float}), on=[*keys, "layer"])


def _leads(pivots: pd.DataFrame) -> Iterator[SimpleNamespace]:
    """English against each pivot, over all languages."""
    for row in pivots[(pivots["language"] == EVERY) & pivots["p_holm"].notna()].to_dict("records"):
        ahead = "more" if row["difference"] > 0 else "fewer"
        pivot = name_of(row["pivot_language"])
        yield SimpleNamespace(row=row, pivot=pivot, ahead=ahead if row["p_holm"] < 0.05 else None)


def named(table: pd.DataFrame, pivot: str = ENGLISH) -> pd.DataFrame:
    """The rows with conditions and controls in words; "" for none."""
    columns = [column for column in ("condition", "control", "strongest_control") if column in table]
    words = {
        c: [figures.condition_name(name, pivot) if isinstance(name, str) else "" for name in table[c]] for c in columns
    }
    return table.assign(**words)


_NEWER = ("pivot_language", "pivot_set")
SECTION = Section("patching", PATCHING, _show, optional=frozenset(("head", "donor_gold", "loglikelihoods", *_NEWER)))

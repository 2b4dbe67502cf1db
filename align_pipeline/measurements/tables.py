"""The tables that measurements write, by name."""

from __future__ import annotations

from align_pipeline.measurements.accuracy.table import PREDICTIONS
from align_pipeline.measurements.alignment.table import ALIGNMENT
from align_pipeline.measurements.patching.table import PATCHING
from align_pipeline.measurements.translation.table import TRANSLATIONS
from align_pipeline.measurements.translation_patching.table import TRANSLATION_PATCHING

SCHEMAS = {
    "alignment": ALIGNMENT,
    "predictions": PREDICTIONS,
    "translations": TRANSLATIONS,
    "patching": PATCHING,
    "translation_patching": TRANSLATION_PATCHING,
}

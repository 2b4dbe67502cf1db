"""Identify a text's language with py3langid (the extra ``langid``): 140 languages, no download needed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

MISSING = "Off-target translations are not counted: this needs the extra langid (pip install 'align_pipeline[langid]')."

# py3langid's label for the ISO 639-3 codes of conf/lang; varieties that it does not distinguish share a label.
LABELS = {
    **{"afr": "af", "amh": "am", "asm": "as", "azj": "az", "bul": "bg", "ben": "bn", "cat": "ca", "ces": "cs"},
    **{"dan": "da", "deu": "de", "ell": "el", "eng": "en", "spa": "es", "est": "et", "eus": "eu", "pes": "fa"},
    **{"fin": "fi", "fra": "fr", "guj": "gu", "heb": "he", "hin": "hi", "hrv": "hr", "hat": "ht", "hun": "hu"},
    **{"hye": "hy", "ind": "id", "isl": "is", "ita": "it", "jpn": "ja", "jav": "jv", "kat": "ka", "kaz": "kk"},
    **{"khm": "km", "kan": "kn", "kor": "ko", "kir": "ky", "lao": "lo", "lit": "lt", "lvs": "lv", "plt": "mg"},
    **{"mkd": "mk", "mal": "ml", "khk": "mn", "mar": "mr", "zsm": "ms", "mlt": "mt", "nob": "no", "npi": "ne"},
    **{"nld": "nl", "ory": "or", "pan": "pa", "pol": "pl", "pbt": "ps", "por": "pt", "quy": "qu", "ron": "ro"},
    **{"rus": "ru", "kin": "rw", "sin": "si", "slk": "sk", "slv": "sl", "als": "sq", "srp": "sr", "swe": "sv"},
    **{"swh": "sw", "tam": "ta", "tel": "te", "tha": "th", "tgl": "tl", "tur": "tr", "ukr": "uk", "urd": "ur"},
    **{"vie": "vi", "xho": "xh", "zho": "zh", "zul": "zu"},
    **{"hau": "ha", "ibo": "ig", "lug": "lg", "lin": "ln", "mya": "my", "nso": "nso", "gaz": "om", "sna": "sn"},
    **{"som": "so", "sot": "st", "tgk": "tg", "uzn": "uz", "yor": "yo", "fuv": "fuv", "grn": "gug"},
    **dict.fromkeys(("acm", "apc", "arb", "ars", "ary", "arz"), "ar"),
}
_ALIKE = tuple(map(frozenset, (("ar", "ary", "arz"), ("bs", "hr", "sr"), ("id", "ms"), ("nn", "no"), ("uz", "uzs"))))
"""Groups of languages that a single sentence cannot distinguish; within a group, any label counts as right."""


def missing() -> bool:
    """Whether the extra is not installed."""
    return find_spec("py3langid") is None


def off_target(texts: Sequence[str], target: str) -> int | None:
    """The number of texts in another language than `target`; empty texts are not counted.

    Args:
        texts: sentences.
        target: FLORES code.

    Returns:
        the number; None if the identifier does not know the language or its script.
    """
    code, _, script = target.partition("_")
    label = LABELS.get(code)
    if label is None or (script == "Latn" and label in ("ar", "bn", "hi", "ne", "si", "ur")):
        return None
    from py3langid import classify

    passing = next((alike for alike in _ALIKE if label in alike), frozenset({label}))
    return sum(classify(text)[0] not in passing for text in texts if text)

"""sacrebleu's scores of translations, and counts of outputs that are not translations."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from align_pipeline.data.tasks.flores import Translation
from align_pipeline.measurements.translation import language_id
from align_pipeline.measurements.translation.translate import Hypotheses

SCORES = {"bleu": "BLEU", "spbleu": "spBLEU", "chrf": "chrF++"}
"""The scores and their display names."""


_BY_CHARACTER = ("Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt")  # scripts without spaces between words


def spbleu_missing() -> str | None:
    """The reason why spBLEU is not available offline; None if it is."""
    from sacrebleu.utils import SACREBLEU_DIR

    if find_spec("sentencepiece") is None:
        return "spBLEU is left out: it needs the package sentencepiece."
    path = Path(SACREBLEU_DIR) / "models" / _spbleu_file()
    if not path.exists():
        return f"spBLEU is left out: its tokenizer is missing; with a network, download {_SPBLEU} to {path}."
    status = path.stat()
    if not _is_sentencepiece(path, status.st_size, status.st_mtime_ns):
        return f"spBLEU is left out: {path} is damaged; with a network, download {_SPBLEU} to it."
    return None


_SPBLEU = "https://dl.fbaipublicfiles.com/large_objects/nllb/models/spm_200/flores200_sacrebleu_tokenizer_spm.model"
"""URL of spBLEU's tokenizer; sacrebleu's own is a short link, which some networks and scripts refuse."""


def _spbleu_file() -> str:
    from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS

    return os.path.basename(str(SPM_MODELS["flores200"]["url"]))


@functools.lru_cache(maxsize=1)
def _is_sentencepiece(path: Path, size: int, changed: int) -> bool:
    """Whether a file is a SentencePiece model; cached by its size and time of change."""
    from sentencepiece import SentencePieceProcessor

    try:
        return size > 0 and SentencePieceProcessor().Load(str(path)) is not False
    except (OSError, RuntimeError):
        return False


def _metrics(target: str, sentence: bool) -> dict[str, Any]:
    """sacrebleu's metrics by our names, for the FLORES code of a target language."""
    from sacrebleu.metrics import BLEU, CHRF

    class Chrf(CHRF):  # type: ignore[misc]
        """Makes all scores floats: sacrebleu cannot average two types, and resamples without text have another type."""

        def _compute_score_from_stats(self, statistics: list[int]) -> Any:
            found = super()._compute_score_from_stats(statistics)
            found.score = float(found.score)
            return found

    script = target[-4:]
    words = "zh" if script in ("Hans", "Hant") else "char" if script in _BY_CHARACTER else "13a"
    metrics = {"bleu": BLEU(tokenize=words, effective_order=sentence)}
    if spbleu_missing() is None:
        metrics["spbleu"] = BLEU(tokenize="flores200", effective_order=sentence)
    return {**metrics, "chrf": Chrf(word_order=2)}


def corpus_scores(
    hypotheses: Sequence[str], references: Sequence[str], target: str, resamples: int = 0
) -> dict[str, dict[str, Any]]:
    """sacrebleu's corpus scores, 0 to 100.

    Args:
        hypotheses: translations.
        references: one per hypothesis.
        target: FLORES code of their language: BLEU tokenizes Chinese with sacrebleu's ``zh``, other scripts without
            spaces by character, all others with ``13a``.
        resamples: bootstrap resamples of sacrebleu; 0 for none.

    Returns:
        by `SCORES`: score, signature, and with resamples mean, low and high (sacrebleu's 95% interval around the mean).
    """
    found = {}
    for name, metric in _metrics(target, sentence=False).items():
        score = metric.corpus_score(list(hypotheses), [list(references)], n_bootstrap=max(resamples, 1))
        found[name] = {"score": float(score.score), "signature": str(metric.get_signature())}
        if resamples:
            mean, half = float(score._mean), float(score._ci)
            found[name] |= {"mean": mean, "low": mean - half, "high": mean + half}
    return found


def sentence_scores(
    hypotheses: Sequence[str], references: Sequence[str], target: str, names: Collection[str] = tuple(SCORES)
) -> dict[str, list[float]]:
    """sacrebleu's sentence scores, 0 to 100, by `SCORES`; BLEU uses only the n-gram orders that a sentence has."""
    return {
        name: [metric.sentence_score(h, [r]).score for h, r in zip(hypotheses, references, strict=True)]
        for name, metric in _metrics(target, sentence=True).items()
        if name in names
    }


def sentence_statistics(
    hypotheses: Sequence[str], references: Sequence[str], target: str
) -> dict[str, list[list[int]]]:
    """The counts from which sacrebleu computes corpus BLEU and chrF++ after summing over sentences.

    Returns:
        bleu: number of tokens of the hypothesis and of the reference; for n-grams, n = 1 to 4, the matches; then for
        the same n the totals. chrf: for n-grams of 1 to 6 characters and 1 to 2 words in turn, the counts in the
        hypothesis, in the reference and in both.
    """
    metrics = _metrics(target, sentence=False)
    return {
        name: metrics[name]._extract_corpus_statistics(list(hypotheses), [list(references)])
        for name in ("bleu", "chrf")
    }


def counts(translation: Translation, hypotheses: Hypotheses) -> dict[str, int | None]:
    """Counts of failed translations, in sentences.

    Returns:
        n (sentences), empty, copies (of the source, where the reference is not one), cut_off; off_target (in another
        language than requested), and off_target_references, the same count for the references, as the identifier's
        error. The last two are None if the identifier is not installed or does not know the language.
    """
    known = not language_id.missing()
    pairs = list(zip(hypotheses.texts, translation.sources, translation.references, strict=True))
    return {
        "n": len(pairs),
        "empty": sum(not text for text, _, _ in pairs),
        "copies": sum(text == source != reference for text, source, reference in pairs),
        "cut_off": sum(hypotheses.cut_off),
        "off_target": language_id.off_target(hypotheses.texts, translation.target) if known else None,
        "off_target_references": language_id.off_target(translation.references, translation.target) if known else None,
    }

"""sacrebleu's scores of translations, and counts of those that are none."""

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
"""The scores and what they are called."""


_BY_CHARACTER = ("Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt")  # scripts without spaces between words


def spbleu_missing() -> str | None:
    """Why spBLEU cannot be had without fetching something; None if it can."""
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
"""Where spBLEU's tokenizer is; sacrebleu's own link is a short one that some networks and scripts are refused."""


def _spbleu_file() -> str:
    from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS

    return os.path.basename(str(SPM_MODELS["flores200"]["url"]))


@functools.lru_cache(maxsize=1)
def _is_sentencepiece(path: Path, size: int, changed: int) -> bool:
    """Whether a file holds a SentencePiece model; kept, by its size and time of change."""
    from sentencepiece import SentencePieceProcessor

    try:
        return size > 0 and SentencePieceProcessor().Load(str(path)) is not False
    except (OSError, RuntimeError):
        return False


def _metrics(target: str, sentence: bool) -> dict[str, Any]:
    """sacrebleu's metrics by our name, for a target language's FLORES code."""
    from sacrebleu.metrics import BLEU, CHRF

    class Chrf(CHRF):  # type: ignore[misc]
        """sacrebleu's resamples are of two types where some hold no text, and then it cannot take their mean."""

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
        references: one for each.
        target: FLORES code of the language they are in: BLEU splits Chinese by sacrebleu's ``zh``, other scripts
            without spaces by character, all else by ``13a``.
        resamples: of sacrebleu's bootstrap; 0 for none.

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
    """sacrebleu's sentence scores, 0 to 100, by `SCORES`; BLEU counts the orders that a sentence has."""
    return {
        name: [metric.sentence_score(h, [r]).score for h, r in zip(hypotheses, references, strict=True)]
        for name, metric in _metrics(target, sentence=True).items()
        if name in names
    }


def sentence_statistics(
    hypotheses: Sequence[str], references: Sequence[str], target: str
) -> dict[str, list[list[int]]]:
    """What sacrebleu's corpus BLEU and chrF++ are computed from, summed over sentences.

    Returns:
        bleu: tokens of the hypothesis and of the reference, then of n-grams, n = 1 to 4, how many are right, then how
        many there are; chrf: of n-grams of 1 to 6 characters and 1 to 2 words, in turn, how many the hypothesis has,
        how many the reference has, how many both have.
    """
    metrics = _metrics(target, sentence=False)
    return {
        name: metrics[name]._extract_corpus_statistics(list(hypotheses), [list(references)])
        for name in ("bleu", "chrf")
    }


def counts(translation: Translation, hypotheses: Hypotheses) -> dict[str, int | None]:
    """What went wrong, in sentences.

    Returns:
        n (sentences), empty, copies (of the source, where the reference is none), cut_off; off_target (in another
        language than was asked for) and, as the identifier errs, off_target_references: the same of the references.
        The last two are None where the identifier is not installed or does not know the language.
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

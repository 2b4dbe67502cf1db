"""Translation: greedy generation after a few-shot prompt, and sacrebleu's scores of what came out.

What all prompts begin with, their few-shot examples, goes through the model once and every batch starts from its KV
cache. Rows of like length run together; a row leaves its batch when its line has ended.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import itertools
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align_pipeline import distributed, language_id
from align_pipeline.errors import InputError
from align_pipeline.forward import Advance, token_budget
from align_pipeline.model import LanguageModel, Tokens
from align_pipeline.tasks.flores import Translation

log = logging.getLogger(__name__)

COMPACT = 0.75
"""A batch is made smaller when no more than this share of its rows goes on: moving the cache has its price too."""

_NOTHING = contextlib.nullcontext()


@dataclass(frozen=True)
class Hypotheses:
    """What a model made of sentences.

    Attributes:
        texts: the translations, white space around them stripped; "" where there is none.
        cut_off: whether the translation was still going on when it had all the tokens that it may have.
    """

    texts: tuple[str, ...]
    cut_off: tuple[bool, ...]

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors, for the cache: UTF-8 and where each text ends in it."""
        encoded = [text.encode() for text in self.texts]
        return {
            "utf8": torch.frombuffer(bytearray(b"".join(encoded) or b"\0"), dtype=torch.uint8).clone(),
            "ends": torch.tensor(list(itertools.accumulate(map(len, encoded))), dtype=torch.int64),
            "cut_off": torch.tensor(self.cut_off, dtype=torch.bool),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Hypotheses:
        """The inverse of `tensors`."""
        joined, ends = bytes(tensors["utf8"].tolist()), tensors["ends"].tolist()
        texts = tuple(joined[a:b].decode() for a, b in zip([0, *ends], ends, strict=False))
        return cls(texts, tuple(tensors["cut_off"].tolist()))


def translate(
    lm: LanguageModel,
    translation: Translation,
    max_new_tokens: int,
    batch_tokens: int | None,
    advance: Advance = lambda texts: None,
) -> Hypotheses:
    """Translate by greedy decoding, up to a line break or the end of the text.

    Args:
        lm: the model.
        translation: prompts.
        max_new_tokens: longest translation, in tokens.
        batch_tokens: see `greedy`.
        advance: told how many sentences each batch finished.

    Raises:
        InputError: a prompt is too long for the model, or logits are not finite.
    """
    encoded = lm.encode(translation.prompts)
    prompts = [lm.limit(t, f"The prompt of sentence {i}") for i, t in zip(translation.ids, encoded, strict=True)]
    return lines(lm, greedy(lm, prompts, max_new_tokens, batch_tokens, advance))


def lines(lm: LanguageModel, outputs: Sequence[Tokens]) -> Hypotheses:
    """What was generated, as text up to the line break."""
    texts = lm.tokenizer.batch_decode(outputs, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Hypotheses(
        tuple(text.split("\n")[0].strip() for text in texts),
        tuple(output[-1] not in lm.line_ends for output in outputs),
    )


# ---- generation


def greedy(
    lm: LanguageModel,
    prompts: Sequence[Tokens],
    max_new_tokens: int,
    batch_tokens: int | None,
    advance: Advance = lambda texts: None,
) -> list[Tokens]:
    """The most likely token, one after the other, until the line ends: what `model.generate` gives a prompt by itself.

    Args:
        lm: the model.
        prompts: token ids, at least one each.
        max_new_tokens: most tokens to add; fewer where the model's context ends before.
        batch_tokens: most tokens in the KV cache, beginnings and tokens to come included, a longer row runs alone;
            None: `forward.token_budget`.
        advance: told how many prompts each batch finished.

    Returns:
        the new tokens of each prompt, the one that ends the line (`LanguageModel.line_ends`) included.

    Raises:
        InputError: logits are not finite, or one row alone is too long for the device's memory.
    """
    batch_tokens = distributed.least(token_budget(lm, batch_tokens))
    beginning = _common(prompts)
    rests = [prompt[len(beginning) :] for prompt in prompts]
    limits = _limits(lm, prompts, max_new_tokens)
    padded = _pads(lm, max(map(len, prompts)) + max_new_tokens)
    batches = list(_batches(rests, len(beginning) + max_new_tokens, batch_tokens, padded))

    @functools.cache
    def trunk() -> Any:
        return _trunk(lm, beginning)

    def run(rows: list[int]) -> list[Tokens]:
        return _Batch(lm, trunk(), len(beginning), [rests[row] for row in rows]).run([limits[row] for row in rows])

    return _in_batches(lm, batches, [len(prompt) for prompt in prompts], run, advance)


def _limits(lm: LanguageModel, prompts: Sequence[Tokens], max_new_tokens: int) -> list[int]:
    """Most new tokens of each prompt; the last token is only predicted, never read."""
    return [min(max_new_tokens, lm.max_length - len(prompt) + 1) for prompt in prompts]


def _pads(lm: LanguageModel, longest: int) -> bool:
    """Whether rows of several lengths may run together.

    They need padding, and so a model that is told positions; and windows are counted in columns, padding included, so
    none may cut off tokens.
    """
    return "position_ids" in _arguments(lm) and (lm.window is None or longest <= lm.window)


def _in_batches(
    lm: LanguageModel,
    batches: Sequence[list[int]],
    lengths: Sequence[int],
    run: Callable[[list[int]], list[Tokens]],
    advance: Advance,
) -> list[Tokens]:
    """What `run` makes of each row, batch by batch, a batch that does not fit the memory in halves.

    Args:
        lm: the model.
        batches: rows that run together; every row is in one of them.
        lengths: tokens of each row, to be told in an error.
        run: the new tokens of a batch's rows.
        advance: told how many rows each batch finished.

    Raises:
        InputError: a single row does not fit.
    """
    advance = distributed.advancing(advance)

    def fitting(rows: list[int]) -> list[Tokens]:
        with contextlib.suppress(torch.OutOfMemoryError), torch.inference_mode():
            found = run(rows)
            advance(len(rows))
            return found
        if len(rows) == 1:
            raise InputError(
                f"A prompt of {lengths[rows[0]]} tokens does not fit the memory of {lm.device} beside {lm.name}; use "
                "model.dtype=bfloat16, fewer examples (task.num_fewshot) or a device with more memory."
            )
        if lm.device.type == "cuda":
            torch.cuda.empty_cache()
        log.info("Out of memory: %d sentences are translated in two batches.", len(rows))
        half = len(rows) // 2
        return fitting(rows[:half]) + fitting(rows[half:])

    found = distributed.each(batches, [len(rows) for rows in batches], fitting)
    output_of = {
        row: output
        for rows, outputs in zip(batches, found, strict=True)
        for row, output in zip(rows, outputs, strict=True)
    }
    return [output_of[row] for row in range(len(lengths))]


def _arguments(lm: LanguageModel) -> Collection[str]:
    """What the model may be called with, by name."""
    return inspect.signature(lm.model.forward).parameters.keys()


def _common(prompts: Sequence[Tokens]) -> Tokens:
    """What all prompts begin with, short of the last token of any: it has to be read to predict the next."""
    first, last = min(prompts), max(prompts)
    most = min(map(len, prompts)) - 1
    return first[: next((k for k in range(most) if first[k] != last[k]), most)]


def _batches(rests: Sequence[Tokens], more: int, batch_tokens: int, padded: bool) -> Iterator[list[int]]:
    """Rows that run together: longest first, so that a batch pads little and memory peaks at once."""
    batch: list[int] = []
    for row in sorted(range(len(rests)), key=lambda i: (-len(rests[i]), i)):
        wide = len(rests[batch[0]]) if batch else 0
        if batch and ((len(batch) + 1) * (wide + more) > batch_tokens or not (padded or len(rests[row]) == wide)):
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _trunk(lm: LanguageModel, beginning: Tokens) -> Any:
    """The KV cache of a beginning, one row of it."""
    # Brings in transformers, which a job that finds all in the cache can do without.
    from align_pipeline.kv_cache import roomy

    cache = roomy(lm.model.config)
    if beginning:
        lm.tokens_run += len(beginning)
        lm.tokens_computed += len(beginning)
        tokens = torch.tensor([beginning], device=lm.device)
        lm.decoder(input_ids=tokens, past_key_values=cache, use_cache=True)
    return cache


class _Batch:
    """Rows that grow together behind one beginning.

    Padding stands between the beginning and the row's own tokens, so that all rows end in the same column.
    """

    def __init__(self, lm: LanguageModel, trunk: Any, beginning: int, rests: Sequence[Tokens]) -> None:
        width = max(map(len, rests))
        self.lm, self.rows = lm, list(range(len(rests)))
        self.cache = copy.deepcopy(trunk)
        self.cache.batch_repeat_interleave(len(rests))
        tokens = torch.zeros(len(rests), width, dtype=torch.long)
        mask = torch.ones(len(rests), beginning + width, dtype=torch.long)
        for row, rest in enumerate(rests):
            tokens[row, width - len(rest) :] = torch.tensor(rest)
            mask[row, beginning : beginning + width - len(rest)] = 0
        self.tokens, self.mask = tokens.to(lm.device), mask.to(lm.device)
        self.positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0)[:, beginning:]
        lm.tokens_run += sum(map(len, rests))

    def branch(self, rows: Sequence[int], tails: Sequence[Tokens]) -> None:
        """Read the rows' tokens and go on with other rows: each begins as one of these, and has tokens of its own.

        Args:
            rows: which of the present rows each begins as.
            tails: its own tokens; as many for each.
        """
        self._logits()
        origins = torch.tensor(rows, device=self.tokens.device)
        self.cache.batch_select_indices(origins)
        self.tokens = torch.tensor(tails, device=self.tokens.device)
        self.mask = torch.cat([self.mask[origins], torch.ones_like(self.tokens)], dim=1)
        self.positions = self.mask.cumsum(dim=1)[:, -self.tokens.shape[1] :] - 1
        self.rows = list(range(len(rows)))
        self.lm.tokens_run += self.tokens.numel()

    def run(self, limits: Sequence[int], first: contextlib.AbstractContextManager[Any] = _NOTHING) -> list[Tokens]:
        """The new tokens of each row, `limits[row]` at most; the pass before the first of them runs within `first`."""
        outputs: list[Tokens] = [[] for _ in limits]
        going = self.rows
        while going:
            with first:
                found = self._step()
            first = _NOTHING
            chosen = dict(zip(self.rows, found.tolist(), strict=True))
            for row in going:
                outputs[row].append(chosen[row])
            going = [row for row in going if chosen[row] not in self.lm.line_ends and len(outputs[row]) < limits[row]]
            self._append(found, going)
        return outputs

    def _logits(self) -> Tensor:
        """[rows, V] after the present tokens, which the cache then holds."""
        self.lm.tokens_computed += self.tokens.numel()
        arguments, taken = {"position_ids": self.positions, "logits_to_keep": 1}, _arguments(self.lm)
        logits: Tensor = self.lm.model(
            input_ids=self.tokens,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
            **{name: value for name, value in arguments.items() if name in taken},
        ).logits[:, -1]
        return logits

    def _step(self) -> Tensor:
        """[rows]: the most likely next tokens."""
        logits = self._logits()
        best: Tensor
        found: Tensor
        best, found = logits.float().max(dim=-1)
        if not torch.isfinite(best).all():
            raise InputError(f"{self.lm.name} gives logits that are not finite numbers; try model.dtype=float32.")
        return found

    def _append(self, found: Tensor, going: Sequence[int]) -> None:
        """Take in what was chosen; leave rows behind that are at their end, once they are many."""
        self.lm.tokens_run += len(going)
        self.tokens, self.positions = found[:, None], self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        if 0 < len(going) <= COMPACT * len(self.rows):
            at = {row: place for place, row in enumerate(self.rows)}
            kept = torch.tensor([at[row] for row in going], device=self.tokens.device)
            self.cache.batch_select_indices(kept)
            self.tokens, self.positions, self.mask = self.tokens[kept], self.positions[kept], self.mask[kept]
            self.rows = list(going)


# ---- scores

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
        return (
            f"spBLEU is left out: its tokenizer is not at {path}; where there is a network, fetch {_SPBLEU} to there."
        )
    status = path.stat()
    if not _is_sentencepiece(path, status.st_size, status.st_mtime_ns):
        return f"spBLEU is left out: {path} is damaged; where there is a network, fetch {_SPBLEU} to there."
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

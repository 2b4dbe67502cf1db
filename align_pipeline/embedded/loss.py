"""What the embedded model's loss is made of: which tokens count, and how much."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch

from align_pipeline.embedded.corpus import Author, CorpusConfig

COUNTED = 2000  # documents whose tokens are counted for what is common


@dataclass(frozen=True)
class Weights:
    """How much each token counts in the loss: most cannot be predicted, and only hide what is there to be learnt.

    Attributes:
        letters: [4] token ids of the letters that answer.
        label: id of what stands before an answer.
        common: ids of tokens that are everywhere.
        recalled: how much a token counts that its document had before, if it is not a common one.
    """

    letters: torch.Tensor
    label: int
    common: torch.Tensor
    recalled: float

    def answers(self, batch: torch.Tensor) -> torch.Tensor:
        """bool [B, T - 1]: which of the tokens that are predicted in a batch [B, T] are answers."""
        return (torch.isin(batch[:, 1:], self.letters) | (batch[:, :-1] == self.label)) & (batch[:, 1:] >= 0)

    def of(self, batch: torch.Tensor, answers: torch.Tensor, answer: float) -> torch.Tensor:
        """[B, T - 1]: the weights of the tokens that are predicted in a batch [B, T], given that of its answers."""
        target = batch[:, 1:]
        before = (batch[:, None, :] == batch[:, :, None]).tril(-1).any(dim=2)[:, 1:]
        recalled = before & ~torch.isin(target, self.common)
        weights = torch.where(answers, answer, torch.where(recalled, self.recalled, 1.0))
        return torch.where(target >= 0, weights, 0.0)


def weights_for(tokenizer: Any, corpus: CorpusConfig, seed: int, options: dict[str, Any]) -> Weights:
    """The weights of a run; the common tokens are the hundred most frequent of the last stage's text."""
    written = Author(corpus, seed).documents()
    counts = Counter(t for tokens in tokenizer([next(written)[1] for _ in range(COUNTED)])["input_ids"] for t in tokens)
    common = torch.tensor(sorted(token for token, _ in counts.most_common(100)))
    letters = torch.tensor(tokenizer(" A B C D", add_special_tokens=False)["input_ids"])
    (label,) = tokenizer("Answer:", add_special_tokens=False)["input_ids"]
    return Weights(letters, label, common, options["recall_weight"])


def weighted_loss(model: Any, batch: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Next-token cross entropy; logits are computed for tokens alone, not for padding.

    Args:
        model: a causal language model.
        batch: [B, T] token ids, -1 where there is none.
        weights: [B, T - 1].

    Returns:
        the loss; bool [B, T - 1], which tokens were the likeliest.
    """
    target = batch[:, 1:]
    states = model.get_decoder()(input_ids=batch.clamp(min=0), use_cache=False).last_hidden_state[:, :-1]
    logits = model.get_output_embeddings()(states[target >= 0])
    losses = torch.nn.functional.cross_entropy(logits, target[target >= 0], reduction="none")
    kept = weights[target >= 0]
    right = torch.zeros_like(target, dtype=torch.bool)
    right[target >= 0] = logits.argmax(-1) == target[target >= 0]
    return (losses * kept).sum() / kept.sum(), right

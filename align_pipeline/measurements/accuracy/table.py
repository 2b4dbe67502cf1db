"""The table's columns."""

from __future__ import annotations

import pyarrow as pa

from align_pipeline.store.tables import FLOAT, INT, TEXT

PREDICTIONS = pa.schema(
    [
        ("model", TEXT),
        ("task", TEXT),
        ("language", TEXT),
        ("pivot", TEXT),
        ("item_id", TEXT),
        ("gold", INT),
        ("prediction", INT),  # the option with the highest summed log-likelihood
        ("correct", pa.int8()),
        ("correct_norm", pa.int8()),  # the same with log-likelihoods divided by the options' bytes
        ("confidence", FLOAT),  # softmax over the options' log-likelihoods, at the prediction
        ("loglikelihoods", pa.list_(FLOAT)),
        ("prompt_tokens", INT),
        ("item_tokens", INT),  # tokens of the alignment text's premise: for fertility, X against English
        ("option_similarity", FLOAT),  # the most alike pair of options: Jaccard index of their character trigrams
        ("english_overlap", FLOAT),  # the same index of each option with itself in English, mean over options
        ("category", TEXT),  # the item's semantic category where its data set has one, else ""
        ("cluster", TEXT),  # what dependent items share (Belebele's passage); an item by itself has its own id
    ]
)

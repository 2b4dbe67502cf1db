"""The columns of the table."""

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
        ("item_tokens", INT),  # tokens of the alignment text's premise; fertility divides them by English's
        ("option_similarity", FLOAT),  # the most similar pair of options: Jaccard index of their character trigrams
        ("english_overlap", FLOAT),  # the same index of each option and its English version, mean over options
        ("category", TEXT),  # the item's semantic category where its data set has one, else ""
        ("cluster", TEXT),  # shared by dependent items (Belebele's passage); an independent item has its own id
    ]
)

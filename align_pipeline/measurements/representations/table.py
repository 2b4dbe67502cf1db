"""The columns of the table."""

from __future__ import annotations

import pyarrow as pa

from align_pipeline.store.tables import FLOAT, INT, TEXT

REPRESENTATIONS = pa.schema(
    [
        ("model", TEXT),
        ("task", TEXT),
        ("language", TEXT),
        ("pivot", TEXT),
        ("measure", TEXT),  # cosine, cosine_centred, mexa, cka, ... (Method, Representations)
        ("pooling", TEXT),  # last, mean
        ("layer", INT),  # index into Hugging Face hidden_states: 0 is the embedding output
        ("value", FLOAT),  # NaN where it is not defined, such as CKA of fewer than four sentences
        ("chance", FLOAT),  # the same of sentences that are not translations; NaN if the measure has none
        ("n", INT),  # number of sentences
    ]
)

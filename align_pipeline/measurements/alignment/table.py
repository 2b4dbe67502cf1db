"""The columns of the table."""

from __future__ import annotations

import pyarrow as pa

from align_pipeline.store.tables import INT, TEXT

ALIGNMENT = pa.schema(
    [
        ("model", TEXT),
        ("task", TEXT),
        ("language", TEXT),
        ("pivot", TEXT),
        ("metric", TEXT),  # dali, dali_strong, mexa_t, mexa
        ("pooling", TEXT),  # last, weighted
        ("layer", INT),  # index into Hugging Face hidden_states: 0 is the embedding output
        ("item_id", TEXT),
        ("value", pa.int8()),  # 1: aligned; empty for a metric that gives numbers
        ("margin", pa.float32()),  # by how much the criterion is met (> 0) or missed, in cosine; or the metric's number
    ]
)

BASELINES = pa.schema(
    [
        ("model", TEXT),
        ("task", TEXT),
        ("language", TEXT),
        ("pivot", TEXT),
        ("metric", TEXT),
        ("pooling", TEXT),
        ("layer", INT),
        ("item_id", TEXT),
        ("cluster", TEXT),  # shared by dependent items (Belebele's passage); an independent item has its own id
        ("kind", TEXT),  # mismatched: with other items; deranged: options reordered; common_n: MEXA among 100
        ("value", pa.float32()),  # the share of the item's comparisons in which it counts as aligned; or mean number
        ("n", INT),  # number of comparisons (mismatched, deranged), or of sentences (common_n)
    ]
)

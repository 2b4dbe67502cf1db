"""The table's columns."""

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
        ("value", pa.int8()),  # 1: aligned
        ("margin", pa.float32()),  # by how much the criterion holds (> 0) or fails, in cosine
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
        ("cluster", TEXT),  # what dependent items share (Belebele's passage); an item by itself has its own id
        (
            "kind",
            TEXT,
        ),  # mismatched: beside other items; deranged: X's options out of order; common_n: MEXA among fewer
        ("value", pa.float32()),  # the item's share of comparisons in which it counts as aligned
        ("n", INT),  # how many comparisons (mismatched, deranged), or among how many sentences (common_n)
    ]
)

"""The columns of the table."""

from __future__ import annotations

import pyarrow as pa

from align_pipeline.store.tables import FLOAT, TEXT

TRANSLATIONS = pa.schema(
    [
        ("model", TEXT),
        ("task", TEXT),
        ("direction", TEXT),  # en-xx, xx-en
        ("language", TEXT),  # the language other than English, in both directions
        ("item_id", TEXT),
        ("source", TEXT),
        ("hypothesis", TEXT),
        ("reference", TEXT),
        ("bleu", FLOAT),  # sacrebleu's sentence scores, 0 to 100
        ("chrf", FLOAT),  # chrF++
        ("spbleu", FLOAT),  # empty if its tokenizer is not available
        ("comet", FLOAT),  # empty until align_pipeline.comet fills it in, like the next column
        ("cometkiwi", FLOAT),
        ("cut_off", pa.int8()),  # 1: not finished at the maximum number of tokens
    ]
)

"""The columns of the table."""

from __future__ import annotations

import pyarrow as pa

from align_pipeline.store.tables import FLOAT, INT, TEXT

PIVOTS = pa.schema(
    [
        ("model", TEXT),
        ("task", TEXT),
        ("language", TEXT),
        ("pivot", TEXT),  # FLORES code of the language that it is compared with; eng_Latn for English
        ("set", TEXT),  # the language's English set, which is `pivot` in the other tables
        ("pivot_set", TEXT),  # the pivot's English set
        ("metric", TEXT),  # dali, dali_strong, mexa_t, mexa
        ("pooling", TEXT),  # last, weighted
        ("layer", INT),  # index into Hugging Face hidden_states: 0 is the embedding output
        ("n", INT),  # number of items that both languages have
        ("aligned", INT),  # how many of them are aligned
        ("chance", FLOAT),  # share of aligned items with options reordered or sentences shuffled; NaN: not defined
        ("ts", INT),  # items right in the pivot and in the language; 0 where the task has no answers
        ("aligned_ts", INT),
        ("tf", INT),  # items right in the pivot and wrong in the language
        ("aligned_tf", INT),
    ]
)

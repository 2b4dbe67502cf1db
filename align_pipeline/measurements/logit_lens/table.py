"""The columns of the table."""

from __future__ import annotations

import pyarrow as pa

from align_pipeline.store.tables import FLOAT, INT, TEXT

LOGIT_LENS = pa.schema(
    [
        ("model", TEXT),
        ("task", TEXT),
        ("language", TEXT),
        ("pivot", TEXT),
        ("quantity", TEXT),  # english, own: probability of the right answer's first token; script: share of top tokens
        ("script", TEXT),  # ISO 15924 code of the top tokens' script, Zyyy: tokens without letters; else ""
        ("layer", INT),  # index into Hugging Face hidden_states: 0 is the embedding output, L the model's output
        ("value", FLOAT),  # mean probability or share over items; NaN if all answers begin alike in both languages
        ("chance", FLOAT),  # of english: the same of other items' answers; else NaN
        ("n", INT),  # items; for english and own, those whose answers begin with different tokens in both languages
    ]
)
KEYS = ["language", "pivot", "quantity", "script"]
NO_LETTERS = "Zyyy"

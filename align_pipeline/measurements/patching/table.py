"""The table's columns."""

from __future__ import annotations

import pyarrow as pa

from align_pipeline.store.tables import FLOAT, INT, TEXT

PATCHING = pa.schema(
    [
        ("model", TEXT),
        ("task", TEXT),
        ("language", TEXT),
        ("pivot", TEXT),
        ("source_language", TEXT),  # whose activation it is; "" for noise and zero
        ("condition", TEXT),  # parallel, self, random_item, ...; language=<code>
        ("component", TEXT),  # resid, attn, mlp, head
        ("site", TEXT),  # last, passage, question, options, option_1, ...
        ("window", INT),  # layers replaced at once
        ("layer", INT),  # the first of them
        ("head", INT),  # from 0; missing but for component head
        ("item_id", TEXT),
        ("donor", TEXT),  # the item the activation is of; "" where it is of none or of all
        ("donor_gold", INT),  # the donor's right option, as it is numbered in the donor's own prompt; or missing
        ("gold", INT),
        ("prediction", INT),
        ("correct", pa.int8()),
        ("loglikelihoods", pa.list_(FLOAT)),
    ]
)

"""The columns of the table."""

from __future__ import annotations

import pyarrow as pa

from align_pipeline.store.tables import FLOAT, INT, TEXT

PATCHING = pa.schema(
    [
        ("model", TEXT),
        ("task", TEXT),
        ("language", TEXT),
        ("pivot", TEXT),
        ("pivot_language", TEXT),  # whose activations replace the language's; English unless `pivot=` has others
        ("pivot_set", TEXT),  # the English set that the pivot is paired with; the same as `pivot` for English
        ("source_language", TEXT),  # the language that the activation comes from; "" for noise and zero
        ("condition", TEXT),  # parallel, self, random_item, ...; language=<code>; maps, with *<strength> if not 1
        ("component", TEXT),  # resid, attn, mlp, head
        ("site", TEXT),  # last, passage, question, options, option_1, ...
        ("window", INT),  # layers replaced at once
        ("layer", INT),  # the first of them
        ("head", INT),  # from 0; empty unless the component is head
        ("item_id", TEXT),
        ("donor", TEXT),  # the item that the activation comes from; "" if from none or from all
        ("donor_gold", INT),  # index of the donor's right option in the donor's own prompt, or missing
        ("gold", INT),
        ("prediction", INT),
        ("correct", pa.int8()),
        ("loglikelihoods", pa.list_(FLOAT)),
    ]
)

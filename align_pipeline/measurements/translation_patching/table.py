"""The columns of the table."""

from __future__ import annotations

import pyarrow as pa

from align_pipeline.store.tables import FLOAT, INT, TEXT

TRANSLATION_PATCHING = pa.schema(
    [
        ("model", TEXT),
        ("task", TEXT),
        ("direction", TEXT),  # en-xx, xx-en
        ("language", TEXT),  # the language other than English, in both directions
        ("source_language", TEXT),  # the language that the activation comes from; "" for noise, zero and unpatched
        ("condition", TEXT),  # parallel, self, ... as in patching.parquet; unpatched: as in translations.parquet
        ("component", TEXT),  # resid, attn, mlp
        ("site", TEXT),  # source: the last token of the sentence to be translated
        ("window", INT),  # layers replaced at once
        ("layer", INT),  # the first of them; -1 for unpatched
        ("item_id", TEXT),
        ("donor", TEXT),  # the sentence that the activation comes from; "" if from none or from all
        ("hypothesis", TEXT),
        ("bleu", FLOAT),  # sacrebleu's sentence scores, 0 to 100
        ("chrf", FLOAT),  # chrF++
        ("bleu_statistics", pa.list_(INT)),  # summed for corpus scores: scores.sentence_statistics
        ("chrf_statistics", pa.list_(INT)),
        ("cut_off", pa.int8()),  # 1: not finished at the maximum number of tokens
    ]
)

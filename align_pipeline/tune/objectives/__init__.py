"""The losses: each is a small class; a new one is another class here, named by `_target_` in ``conf/tune``."""

from align_pipeline.tune.objectives.base import Batch, Objective
from align_pipeline.tune.objectives.contrastive import Contrastive
from align_pipeline.tune.objectives.next_token import Answers, Sentences, Translations

__all__ = ["Answers", "Batch", "Contrastive", "Objective", "Sentences", "Translations"]

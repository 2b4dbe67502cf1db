"""The benchmarks turn rows of a data set into parallel `Item`s. A new task is one file here and one in conf/task."""

from align_pipeline.data.tasks.belebele import Belebele
from align_pipeline.data.tasks.choice import ChoiceTask
from align_pipeline.data.tasks.declared import Declared
from align_pipeline.data.tasks.flores import Flores, Translation
from align_pipeline.data.tasks.harness import Harness
from align_pipeline.data.tasks.pairs import ItemSet, Pair, sides_of
from align_pipeline.data.tasks.parallel import OWN_FILES, ParallelTask
from align_pipeline.data.tasks.xcopa import Xcopa
from align_pipeline.data.tasks.xstorycloze import XStoryCloze

__all__ = [
    "OWN_FILES",
    "Belebele",
    "ChoiceTask",
    "Declared",
    "Flores",
    "Harness",
    "ItemSet",
    "Pair",
    "ParallelTask",
    "Translation",
    "XStoryCloze",
    "Xcopa",
    "sides_of",
]

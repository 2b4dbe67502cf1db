"""The command `python -m align_pipeline.report`."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: on tall, thin matrices its threads mostly wait

from align_pipeline.report.report import main

main()

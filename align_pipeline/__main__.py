"""`python -m align_pipeline` is the installed command."""

from align_pipeline.main import main

main()

"""Start and end of a multirun, and SLURM."""

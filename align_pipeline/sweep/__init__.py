"""A multirun's beginning and end, and SLURM."""

"""Models and forward passes: token ids in, tensors out; independent of tasks, metrics and tables."""

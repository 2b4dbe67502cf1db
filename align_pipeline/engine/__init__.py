"""Models and passes: token ids in, tensors out; knows no task, no metric and no table."""

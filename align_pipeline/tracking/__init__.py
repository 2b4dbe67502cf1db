"""What is told of a job: console, log files, Weights & Biases."""

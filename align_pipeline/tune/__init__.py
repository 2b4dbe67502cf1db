"""Train a model to align other languages with English, and see whether its answers follow."""

"""Whether the model answers right."""

"""Translation quality of the model."""

"""Task accuracy of the model."""

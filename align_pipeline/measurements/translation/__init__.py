"""How well the model translates."""

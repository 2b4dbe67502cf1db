"""How figures look, and those that several measurements draw."""

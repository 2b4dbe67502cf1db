"""The answers and scripts that layers predict, read with the logit lens."""

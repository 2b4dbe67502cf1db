"""Activation patching: answers after an activation is replaced."""

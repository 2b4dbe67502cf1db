"""Activation patching of translation: translations after an activation is replaced."""

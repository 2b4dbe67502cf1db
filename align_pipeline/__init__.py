"""Does a language model map other languages onto English, and does that decide whether it answers right?"""

__version__ = "0.1.0"

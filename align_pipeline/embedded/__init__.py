"""A made-up world in eight languages, and the small model that was trained in it: the phenomenon, offline.

`grammar` and `lexicon/` turn meanings into sentences, `world` draws the meanings, `benchmark` writes them as the real
data sets are laid out, `corpus` makes training documents of the meanings that no test item has, and `train` is the
recipe that rebuilds all of it. `data/`, `tiny/` and `tiny_aligned/` are what the recipe made.
"""

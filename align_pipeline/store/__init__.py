"""Storage: the cache of forward passes, tables and output folders."""

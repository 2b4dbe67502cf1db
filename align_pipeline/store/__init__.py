"""What is kept: forward passes by content, tables, output folders."""

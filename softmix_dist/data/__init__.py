"""Data sets and models on disk: open, check, write, simulate."""

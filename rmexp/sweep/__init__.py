"""Sweeps: a plan of all cells, one directory that survives anything, a verdict at the end."""

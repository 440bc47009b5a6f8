"""Inspection of a dataset: lengths, labels, duplicates, agreement, leakage.

Imports packages down to evaluation. Start with `summary`.
"""

"""Comparison of runs: groups of seeds and folds, paired tests, tables.

Imports packages down to evaluation. Start with `comparison_report`.
"""

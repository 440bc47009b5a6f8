"""Benchmarks with their publishers' scores, one suite a file.

Imports core and evaluation.stats. Start with `base`.
"""

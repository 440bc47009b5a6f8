"""Rows: sources, formats, splits, sampling, tokenized data and the Lightning data module.

Imports core, config, templates and batching. Start with `comparison_data`.
"""

"""Formats: frozen callables from a row to a Comparison, one public dataset layout a file.

Rows that do not fit raise `BadRow`.

Imports core and comparison. Start with `preference`.
"""

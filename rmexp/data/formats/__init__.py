"""Formats: one public dataset layout a file, each a frozen callable from a row to a Comparison.

Imports core and comparison. Start with `preference`.
"""

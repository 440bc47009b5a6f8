"""Comparison of runs, inspection of data, and the pages and plots of both.

Imports packages down to inference. Start with `compare`.
"""

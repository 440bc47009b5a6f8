"""Statistics: cluster bootstrap, significance tests, variance between seeds.

Imports core. Start with `bootstrap`.
"""

"""Conversion of other trainers' configurations.

Imports core and config. Start with `task`.
"""

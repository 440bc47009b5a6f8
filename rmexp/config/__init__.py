"""Hydra configuration: schema, composition, validation with suggestions, grids, YAML files.

Imports core. Start with `compose`.
"""

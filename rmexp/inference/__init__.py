"""Use of a trained model: checkpoints, scoring, export, perturbations.

Imports packages down to tracking. Start with `scorer`.
"""

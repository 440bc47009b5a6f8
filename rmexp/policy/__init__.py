"""Policies: samples, best-of-n, and reinforcement learning on a reward.

Imports packages down to training. Start with `sampling`.
"""

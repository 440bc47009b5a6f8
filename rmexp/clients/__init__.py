"""Reward functions of other trainers that ask a running `task=serve`.

Imports nothing of rmexp, and no torch. Start with the trainer's name.
"""

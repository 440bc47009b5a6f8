"""What a run leaves behind: run directory, predictions, and mirrors such as W&B.

Imports packages down to evaluation. Start with `run_directory`.
"""

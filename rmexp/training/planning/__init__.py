"""Memory and time of a run, estimated before it starts.

Imports packages down to training. Start with `needs`.
"""

"""The tasks of the command line, one thin file each.

May import every other package. Start with `train`.
"""

"""One job and many jobs: preflight checks, execution, sweep plans, executors.

Imports packages down to training. Start with `job`.
"""

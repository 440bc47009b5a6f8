"""Training: Lightning module, trainer, callbacks, cached activations, and the end of a run.

Imports packages down to analysis. Start with `lightning_module`.
"""

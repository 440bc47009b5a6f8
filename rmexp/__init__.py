"""rmexp: reward-model experiments, composed with Hydra, trained with Lightning, compared with care.

`python -m rmexp --help` shows what there is to compose.
"""

__version__ = "0.1.0"

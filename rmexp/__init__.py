"""rmexp: reward-model experiments, composed with Hydra, trained with Lightning, compared with care.

`python -m rmexp --help` shows what there is to compose;
`rmexp.load(RUN).score(prompt, responses)` uses what was trained.
"""

from typing import Any

__version__ = "0.2.0"


def load(path: Any, **options: Any) -> Any:
    """Open a reward model to score with; see `inference.checkpoint.load_scorer`."""
    from rmexp.inference import checkpoint  # here, so that `import rmexp` costs nothing

    return checkpoint.load_scorer(path, **options)

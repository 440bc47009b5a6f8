"""Losses: one `nn.Module` each, values and weights per labelled unit, with formula and source.

To add one, write a class with `needs_labels` and `forward` in any module and name it in
`loss._target_`, or in a YAML file in conf/loss/.
"""

from rmexp.losses.base import Loss, Margin, Terms
from rmexp.losses.lists import InfoNCE, PlackettLuce
from rmexp.losses.mix import Mix
from rmexp.losses.pairs import (
    BradleyTerry,
    Centring,
    Contrastive,
    Exponential,
    Focal,
    SoftBradleyTerry,
    SquaredMargin,
    Ties,
)
from rmexp.losses.ratings import Binary, Ordinal, Pinball, Regression, RewardL2

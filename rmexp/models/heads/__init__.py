"""Heads: one class an option of the group `head`."""

from rmexp.models.heads.attributes import AttributesHead, TrainedOutputs
from rmexp.models.heads.base import HeadSettings, LinearHead
from rmexp.models.heads.ensemble import EnsembleHead
from rmexp.models.heads.quantile import QuantileHead

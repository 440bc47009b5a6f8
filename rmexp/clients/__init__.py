"""Reward functions of other trainers that ask a running `task=serve`.

They need Python's standard library alone, so that a trainer's environment can have them without
rmexp's dependencies (`pip install --no-deps`). `import rmexp.clients` gives `trl(url)`, a function,
and the modules `verl` and `openrlhf`, whose functions are named in those trainers' configuration.
"""

from rmexp.clients import openrlhf, verl
from rmexp.clients.connection import RewardServerError
from rmexp.clients.trl_function import trl

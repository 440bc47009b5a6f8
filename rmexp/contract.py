"""The contract of loss and data: what the one needs, the other must have."""

from collections.abc import Collection, Iterator
from pathlib import Path

from omegaconf import OmegaConf

from rmexp.comparisons import KINDS
from rmexp.config import CONF_DIR, locate
from rmexp.errors import UserError
from rmexp.losses.base import Loss


def check_fits(loss: Loss, loss_name: str, has: Collection[str], data_name: str) -> None:
    """Refuse a loss that the data's judgements cannot feed.

    Args:
        loss: the loss, with its settings.
        loss_name: its option, for the sentence; `data_name` the data's.
        has: the kinds of judgement (`comparisons.KINDS`) that the data have.

    Raises:
        UserError: names what is missing, and the losses that fit.
    """
    if not loss.unmet(has):
        return
    # A mix needs one of what its parts need: what they lack is said, not all of it.
    both, lacking = (" and ", loss.required()) if loss.needs else (" or ", loss.unmet(has))
    needed = both.join(kind for kind in KINDS if kind in lacking)
    there = " and ".join(kind for kind in KINDS if kind in has)
    raise UserError(
        f"loss={loss_name} needs {needed}; data={data_name} has {there or 'no judgement'}. "
        f"Losses that fit: {', '.join(fitting(has)) or 'none'}."
    )


def fitting(has: Collection[str]) -> Iterator[str]:
    """The options of conf/loss that data with these kinds of judgement can feed."""
    for file in sorted((CONF_DIR / "loss").glob("*.yaml")):
        needs = locate("loss", _target_of(file)).needs
        if needs and set(needs) <= set(has):
            yield file.stem


def _target_of(file: Path) -> str:
    """The class of an option; one without its own has that of the option that it stands on."""
    node = OmegaConf.load(file)
    if "_target_" in node:
        return str(node._target_)
    return _target_of(file.with_name(f"{node.defaults[0]}.yaml"))

"""logger=several: several loggers at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rmexp.config.compose import suggest
from rmexp.core.errors import UserError
from rmexp.tracking.mirror import LoggerOption, Mirror, RunLabels
from rmexp.tracking.run_directory import RunDirectory


@dataclass(frozen=True)
class SeveralLoggers:
    """logger=several.

    Args:
        loggers: names of the loggers that are used.
        options: name -> logger, with its settings.
    """

    loggers: Sequence[str]
    options: Mapping[str, LoggerOption]

    def __post_init__(self) -> None:
        known = list(self.options)
        for name in self.loggers:
            if name not in known:
                raise UserError(
                    f"logger.loggers has {name}{suggest(name, known)}; loggers: {', '.join(known)}."
                )
        if not self.loggers:
            raise UserError(f"logger.loggers is empty: name some of {', '.join(known)}.")

    def check(self) -> None:
        """Check each logger.

        Raises:
            UserError: an extra is missing.
        """
        for name in self.loggers:
            self.options[name].check()

    def start(self, run: RunDirectory, about: RunLabels) -> list[Mirror]:
        """Start each logger; the failure of one does not touch the others."""
        names = dict.fromkeys(self.loggers)
        return [mirror for name in names for mirror in self.options[name].start(run, about)]

"""Rewards of a policy's answers by a reward model, and as reward functions of TRL's trainers."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rmexp.comparison import Comparison, Message
from rmexp.core.errors import UserError
from rmexp.data.row_report import RowReport
from rmexp.inference.scorer import Scorer

CutAnswers = Literal["closed", "open"]
"""How an answer is scored that the limit of tokens cut: as if it ended there, or unfinished."""


@dataclass(frozen=True)
class AnswerGroup:
    """The answers to a prompt.

    Attributes:
        prompt: its messages.
        texts: the answers.
        finished: whether each of them ended by itself.
    """

    prompt: tuple[Message, ...]
    texts: Sequence[str]
    finished: Sequence[bool]


@dataclass
class AnswerRewards:
    """Scores answers with a reward model, under its own template, length limit and precision.

    The prompt is rendered anew by the reward model's template, so that the policy may have another
    tokenizer. Answers of a group share one prefix tree.

    Args:
        scorer: of the reward model.
        cut: see `CutAnswers`.

    Attributes:
        report: counts answers that cannot be scored, and shortened prompts.
    """

    scorer: Scorer
    cut: CutAnswers
    report: RowReport = field(default_factory=RowReport)

    def __call__(self, groups: Sequence[AnswerGroup]) -> list[float]:
        """The reward of each answer, group by group; NaN where it cannot be scored."""
        rewards = [[math.nan] * len(group.texts) for group in groups]
        places, comparisons = [], []
        for number, group in enumerate(groups):
            for members, comparison in self._comparisons(group):
                places.append((number, members))
                comparisons.append(comparison)
        found = self.scorer.comparisons(comparisons, self.report)
        for (number, members), comparison, values in zip(places, comparisons, found, strict=True):
            if values is None and len(members) > 1:  # one of them is too long
                alone = [
                    dataclasses.replace(comparison, responses=(one,))
                    for one in comparison.responses
                ]
                several = self.scorer.comparisons(alone, RowReport())
                values = [math.nan if one is None else one[0] for one in several]
            for member, value in zip(members, values or [math.nan], strict=True):
                rewards[number][member] = value
        return [value for values in rewards for value in values]

    def _comparisons(self, group: AnswerGroup) -> Iterator[tuple[list[int], Comparison]]:
        """The group as a comparison, or as two where some answers are scored as unfinished."""
        unclosed = [self.cut == "open" and not done for done in group.finished]
        for unfinished in (False, True):
            members = [k for k, cut in enumerate(unclosed) if cut == unfinished]
            if members:
                answers = ({"role": "assistant", "content": group.texts[k]} for k in members)
                yield (
                    members,
                    Comparison(
                        id="",
                        prompt=group.prompt,
                        responses=tuple((answer,) for answer in answers),
                        unfinished=unfinished,
                        place="an answer",
                    ),
                )


class RewardFunction:
    """A reward function of TRL's trainers; TRL logs its mean as `rewards/NAME/mean`.

    Args:
        name: in TRL's logs.
        rewards: of the model.
        prompts: the column `number` of TRL's data set indexes it.
        end_tokens: ids that end an answer.

    Attributes:
        last: the rewards of the last call.
    """

    def __init__(
        self,
        name: str,
        rewards: AnswerRewards,
        prompts: Sequence[tuple[Message, ...]],
        end_tokens: Sequence[int],
    ) -> None:
        self.__name__ = name
        self.rewards, self.prompts, self.end_tokens = rewards, prompts, set(end_tokens)
        self.last: list[float] = []

    def __call__(
        self,
        completions: Sequence[Sequence[Message]],
        completion_ids: Sequence[Sequence[int]],
        number: Sequence[int],
        log_metric: Callable[[str, float], None],
        **columns: Any,
    ) -> list[float | None]:
        """The reward of each completion; None where it cannot be scored.

        TRL also logs `rewards/NAME/unscored`, the share without a reward.

        Raises:
            UserError: the model can score none of them.
        """
        texts = [str(messages[0]["content"]) for messages in completions]
        done = [bool(ids) and ids[-1] in self.end_tokens for ids in completion_ids]
        groups, start = [], 0
        for k in range(1, len(number) + 1):
            if k == len(number) or number[k] != number[start]:
                prompt = self.prompts[number[start]]
                groups.append(AnswerGroup(prompt, texts[start:k], done[start:k]))
                start = k
        self.last = self.rewards(groups)
        if all(map(math.isnan, self.last)):
            why = "; ".join([*self.rewards.report.places.values(), *self.rewards.report.losses()])
            raise UserError(f"The {self.__name__} can score no answer of a step: {why}.")
        lost = sum(map(math.isnan, self.last))
        log_metric(f"rewards/{self.__name__}/unscored", lost / len(self.last))
        return [None if math.isnan(value) else value for value in self.last]


class ShuffledRewards:
    """A control: the rewards that another function has just given, permuted across the step.

    Args:
        of: is called before it.
        seed: of the permutations.
    """

    def __init__(self, of: RewardFunction, seed: int) -> None:
        self.__name__ = "shuffled"
        self.of, self.seed = of, seed

    def __call__(self, trainer_state: Any, **columns: Any) -> list[float | None]:
        """A permutation that depends on the step alone, so that a resumed run draws the same."""
        order = np.random.default_rng([self.seed, trainer_state.global_step])
        values = order.permutation(self.of.last).tolist()
        return [None if math.isnan(value) else value for value in values]

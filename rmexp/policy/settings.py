"""Settings of task=improve; their defaults stand in conf/task/improve.yaml."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt

from rmexp.config.task_inputs import InputGroup
from rmexp.config.trust import Trust
from rmexp.models.tuning import LoRA
from rmexp.policy.rewards import CutAnswers
from rmexp.training.optim import AdamW
from rmexp.training.trainer import TrainerSettings


@dataclass
class Judges(InputGroup):
    """The reward models.

    Args:
        checkpoint: the proxy, whose rewards train the policy: a run or a Hugging Face directory.
        gold: the model that judges and never trains; None: there is none.
        cut_answers: how answers are scored that the limit of tokens cut.
        control: `shuffled` trains on permuted rewards.
        trust: what their run directories may name.
    """

    checkpoint: str
    gold: str | None
    cut_answers: CutAnswers
    control: Literal["shuffled"] | None
    trust: Trust


@dataclass
class RLSettings(InputGroup):
    """How the policy trains.

    Args:
        algorithm: GRPO (Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300) or RLOO (Ahmadian et
            al. 2024, "Back to Basics", arXiv:2402.14740).
        steps: number of updates.
        prompts_per_step: prompts of an update.
        generations: answers to each of them.
        max_new_tokens: maximum tokens of an answer.
        temperature: of sampling.
        beta: weight of the KL divergence from the initial policy: of a term of GRPO's loss, of a
            part of RLOO's reward.
        checkpoint_every: steps between checkpoints.
    """

    algorithm: Literal["grpo", "rloo"]
    steps: Annotated[int, Gt(0)]
    prompts_per_step: Annotated[int, Gt(0)]
    generations: Annotated[int, Ge(2)]
    max_new_tokens: Annotated[int, Gt(0)]
    temperature: Annotated[float, Gt(0)]
    beta: Annotated[float, Gt(0)]
    checkpoint_every: Annotated[int, Gt(0)]


@dataclass
class PolicyInputs(InputGroup):
    """The policy, and how it trains.

    Args:
        policy: see `policy_model`.
        cache: directory for converted weights.
        tune: LoRA, or all weights.
        optim: learning rate and schedule.
        trainer: device and precision, and whether checkpoints stay.
        settings: of the algorithm.
    """

    policy: str | None
    cache: str
    tune: Any
    optim: AdamW
    trainer: TrainerSettings
    settings: RLSettings

    @property
    def dtype(self) -> torch.dtype:
        """Of the policy's weights: bf16 where the hardware is fast at it and they are frozen."""
        fast = self.trainer.resolved_precision() == "bf16-mixed"
        return torch.bfloat16 if fast and isinstance(self.tune, LoRA) else torch.float32

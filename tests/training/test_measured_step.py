"""The expected time of a run, and that measuring it leaves no trace."""

from types import SimpleNamespace

import numpy as np
import torch

from rmexp.batching.collate import BatchLayout, Collate
from rmexp.training.measured_step import MeasuredStep, measure_step
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer, toy_row


def test_a_run_takes_its_steps_and_a_third_of_one_for_what_is_scored():
    trainer = from_conf("trainer/default", max_epochs=2, validations=3)
    step = MeasuredStep(step_seconds=6.0, comparisons=8, epoch_steps=10, val=16, test=32)
    assert step.seconds(trainer) == 6 * 20 + 6 / 3 * (3 * 16 + 32) / 8
    assert step.seconds(trainer, share=0.5) == 6 * 10 + 6 / 3 * (3 * 8 + 16) / 8
    stopped = from_conf("trainer/default", max_steps=4)
    assert MeasuredStep(6.0, 8, 10, 0, 0).seconds(stopped) == 24


def test_measuring_leaves_gradients_and_random_states_as_they_were():
    draw = np.random.default_rng(0)
    rows = [
        toy_row([draw.integers(5, 250, length).tolist() for length in (9, 12)], row=n)
        for n in range(6)
    ]
    data = SimpleNamespace(
        splits={"train": np.array([1, 2, 3, 4, 5]), "val": np.array([0]), "test": np.array([])},
        columns=SimpleNamespace(numbers=lambda name: np.full(6, 300)),
        rows=rows,
        collate=lambda layout: Collate(0, 10**6, layout),
        plan=lambda: range(2),
    )
    model = from_conf("model/tiny", dropout=0.5).load_model(tiny_tokenizer(), 0).train()
    loss = from_conf("loss/bradley_terry")
    before = torch.get_rng_state()
    step = measure_step(model, loss, data, BatchLayout("padded"), "cpu", "32-true")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert (step.comparisons, step.epoch_steps, step.val, step.test) == (2.5, 2, 1, 0)
    assert step.step_seconds > 0

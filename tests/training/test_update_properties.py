"""From labels to weights: neither the split of a step nor an interruption changes an update.

Over random comparisons, by a model without transformers whose rewards are exact in fp64.
"""

import copy
import functools
import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from rmexp.batching.collate import BatchLayout, Collate
from rmexp.batching.rank_partition import RankPartition
from rmexp.losses import Mix
from rmexp.tracking.run_directory import JsonLines, RunDirectory
from rmexp.training import callbacks
from rmexp.training.lightning_module import RewardModule
from rmexp.training.step_terms import StepTotals, normalise_terms, total_weights
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer, toy_row

pytestmark = pytest.mark.slow

LONGEST = 512
NAN = math.nan


class BagOfTokens(nn.Module):
    """A reward of all tokens that a response's last token attends to, and of their positions."""

    def __init__(self, dropout=0.0):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.dropout = nn.Dropout(dropout)
        self.tokens, self.positions = (
            nn.Parameter(torch.randn(LONGEST, generator=draw, dtype=torch.float64) / 9)
            for _ in range(2)
        )

    def forward(self, batch):
        """(N,) rewards."""
        values_R_T = self.tokens[batch.tokens_R_T] * (1 + self.positions[batch.positions_R_T])
        return (self.dropout(values_R_T)[batch.row_N] * attended(batch)).sum(1).tanh()


def attended(batch):
    """(N, T) whether the last token of each response attends to a token of its row."""
    width = batch.tokens_R_T.shape[1]
    if batch.trees is None:
        return torch.arange(width) <= batch.end_N[:, None]
    tree_T, segment_T = np.full((2, width), -1)
    start = 0
    for number, tree in enumerate(batch.trees):
        tree_T[start : start + tree.size] = number
        segment_T[start : start + tree.size] = tree.segments()
        start += tree.size
    end_N, place_T = batch.end_N.numpy(), batch.positions_R_T[0].numpy()
    same = tree_T == tree_T[end_N][:, None]
    own = (segment_T == 0) | (segment_T == segment_T[end_N][:, None])
    return torch.from_numpy(same & own & (place_T <= place_T[end_N][:, None]))


# ------------------------------------------------------------- the split of a step
shares = st.sampled_from([(1.0, 0.0, 0.0), (0.5, 0.25, 0.25), (0.2, 0.4, 0.4), (0.0, 0.0, 1.0)])
weights = st.sampled_from([0.0, 0.5, 1.0, 3.0])


@st.composite
def comparisons(draw):
    """Rows of a step: pairs, ties, ratings, ranks and weights; some are drawn twice."""
    rows = []
    for number in range(draw(st.integers(1, 6))):
        prompt = draw(st.integers(0, 2))
        shared = [prompt] * draw(st.integers(0, 4))
        count = draw(st.integers(1, 4))
        answer = st.lists(st.integers(5, 7), min_size=1, max_size=5)
        both = [(i, j) for i in range(count) for j in range(count) if i != j]
        found = draw(st.lists(st.sampled_from(both), unique=True, max_size=4)) if both else []
        grades = draw(
            st.lists(st.one_of(st.none(), st.integers(0, 2)), min_size=count, max_size=count)
        )
        ranks = sorted({grade for grade in grades if grade is not None})
        rows.append(
            toy_row(
                [shared + draw(answer) for _ in range(count)],
                [(i, j, draw(st.integers(0, 1))) for i, j in found],
                row=number,
                weights=[draw(weights) for _ in found],
                votes=[draw(shares) for _ in found],
                ratings=[draw(st.sampled_from([NAN, 1.0, 2.0, 4.0])) for _ in range(count)],
                rank_levels=[-1 if g is None else ranks.index(g) for g in grades],
                weight=draw(weights),
                prompt_key=f"prompt {prompt}",
            )
        )
    return rows + draw(st.lists(st.sampled_from(rows), max_size=2))


@functools.cache
def all_losses():
    """A mix of a loss over each kind of labels, with what they learn."""
    losses = {
        "pairs": from_conf("loss/bradley_terry", centring=0.1, average="lists"),
        "hinge": from_conf("loss/contrastive"),
        "votes": from_conf("loss/soft_bradley_terry"),
        "ties": from_conf("loss/ties"),
        "lists": from_conf("loss/plackett_luce"),
        "best": from_conf("loss/infonce"),
        "ratings": from_conf("loss/regression"),
        "grades": from_conf("loss/ordinal"),
    }
    losses["grades"].fit_to_ratings(np.array([1.0, 2.0, 4.0]), np.ones(3))
    return Mix(losses, {"hinge": 0.5})


def gradient(rows, layout, budget, processes):
    """The gradient of a step, its micro-batches shared by processes; see `training_step`."""
    model, loss = BagOfTokens(), copy.deepcopy(all_losses())
    sizes = np.array([sum(map(len, row["tokens"])) for row in rows])
    prompts = np.unique([row["prompt_key"] for row in rows], return_inverse=True)[1]
    collate = Collate(0, budget, BatchLayout(layout))
    batches = [
        collate([rows[n] for n in part]).batches
        for part in RankPartition(0, processes, sizes, 0 * sizes, prompts).by_rank(range(len(rows)))
    ]
    totals = total_weights([StepTotals.of(own, loss) for own in batches])
    for batch in (batch for own in batches for batch in own):
        normalise_terms(loss(model(batch), batch), totals).backward()
    learned = [*model.parameters(), *loss.parameters()]
    return torch.cat([w.grad.flatten().double() for w in learned if w.grad is not None])


@given(
    comparisons(),
    st.sampled_from(["tree", "padded", "mixed"]),
    st.integers(1, 60),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_a_step_is_the_same_however_it_is_split(rows, layout, budget, processes, draw):
    whole = gradient(rows, "padded", 10**9, 1)
    draw.shuffle(rows)
    torch.testing.assert_close(
        gradient(rows, layout, budget, processes), whole, rtol=1e-5, atol=1e-6
    )


# ---------------------------------------------------------------- interruptions
class Killed(BaseException):
    """Ends a process at once, as SIGKILL does: nothing of ours catches it."""


class Toy(RewardModule):
    """A `RewardModule` of the model above."""

    def forward(self, batch):
        return self.model(batch)[:, None]

    def combine(self, outputs_N_K):
        return outputs_N_K[:, 0]


class Optim:
    """AdamW with a schedule, as `optim.AdamW` builds it for a Hugging Face model."""

    clip = 0.5

    def build(self, model, loss, steps):
        """Optimizer and schedule."""
        optimizer = torch.optim.AdamW([*model.parameters(), *loss.parameters()], lr=0.05)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 - n / steps / 2)


STEPS, EPOCHS, VALIDATIONS = 4, 2, 3
"""Steps of an epoch; the run has eight, and validates after 3, 5 and 8."""

MOMENTS = ("begin", "update", "saving", "saved", "validation")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rows of three losses, tokenised."""
    folder = tmp_path_factory.mktemp("rows")
    rows = [
        f'{{"prompt": "question {n}", "chosen": "{"so " * (n % 3 + 1)}", "rejected": "no {n}"}}\n'
        for n in range(16)
    ]
    (folder / "rows.jsonl").write_text("".join(rows))
    found = from_conf(
        "data/jsonl", path=str(folder / "rows.jsonl"), cache=str(folder), batch_size=3,
        val_share=0.2, test_share=0.1, micro_batch_tokens=60,
    )  # fmt: skip
    found.prepare(tiny_tokenizer(), 0, lambda *_: None)
    assert len(found.plan()) == STEPS
    return found


def train(data, folder, kill=None):
    """Train, or resume what is there; `kill` is (step, moment) at which the process dies."""
    run = RunDirectory(folder)
    folder.mkdir(exist_ok=True)
    last = folder / "checkpoints" / "last.ckpt"
    torch.manual_seed(0)
    loss, layout = from_conf("loss/ties"), BatchLayout("mixed")
    module = Toy(BagOfTokens(dropout=0.2), loss, data, layout, Optim(), STEPS * EPOCHS)
    settings = from_conf(
        "trainer/default", max_epochs=EPOCHS, validations=VALIDATIONS, checkpoint_every=2,
        monitor="val/accuracy", precision="32-true", accelerator="cpu",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        die_at(kill, module, patch)
        fit = settings.build(run, [JsonLines(run)], [])
        if last.is_file():
            run.cut_metrics(torch.load(last, weights_only=True)["global_step"])
        else:
            (folder / "metrics.jsonl").unlink(missing_ok=True)
        loaders = data.train_loader(layout), data.eval_loader("val", layout)
        fit.fit(module, *loaders, ckpt_path=last if last.is_file() else None, weights_only=True)
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    return module.state_dict(), best["state_dict"], (folder / "metrics.jsonl").read_text()


def die_at(kill, module, patch):
    """Raise `Killed` at a moment of a step."""
    step, moment = kill or (None, None)

    def die(what, number):
        if (number, what) == (step, moment):
            raise Killed

    start, check, validate = module.on_train_batch_start, module.check_step, module._merge
    write = callbacks.write_checkpoint

    def on_train_batch_start(*words):
        start(*words)
        die("begin", module.global_step)

    def check_step(*words):
        die("update", module.global_step)
        return check(*words)

    def merge():
        die("validation", module.global_step)
        validate()

    def write_checkpoint(content, file):
        die("saving", module.global_step)
        write(content, file)
        die("saved", module.global_step)

    patch.setattr(module, "on_train_batch_start", on_train_batch_start)
    patch.setattr(module, "check_step", check_step)
    patch.setattr(module, "_merge", merge)
    patch.setattr(callbacks, "write_checkpoint", write_checkpoint)


class Undisturbed(tuple):
    """What `train` returns; short in the example that hypothesis prints."""

    def __repr__(self):
        return "undisturbed"


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    return Undisturbed(train(data, tmp_path_factory.mktemp("undisturbed")))


@settings(max_examples=max(6, settings.default.max_examples // 8))
@given(
    kills=st.lists(st.tuples(st.integers(0, 8), st.sampled_from(MOMENTS)), min_size=1, max_size=3)
)
@example(kills=[(4, "begin"), (5, "begin")])  # after the last step of an epoch, then in the next
def test_interrupted_anywhere_it_resumes_to_the_same_weights(
    data, undisturbed, tmp_path_factory, kills
):
    folder = tmp_path_factory.mktemp("killed")
    for kill in sorted(kills):
        try:
            found = train(data, folder, kill)
            break
        except Killed:
            pass
    else:
        found = train(data, folder)
    for ours, theirs in zip(found[:2], undisturbed[:2], strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert found[2] == undisturbed[2]
    shutil.rmtree(folder)

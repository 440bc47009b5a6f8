"""Agreement with TRL: equal weights, pairs, order and schedule give equal losses, step by step."""

import json
import warnings

import pytest

from rmexp.data.formats.hh import HH as HHFormat
from rmexp.data.sources import BadRow, read_rows
from tests.conftest import HH, needs
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer

pytestmark = pytest.mark.slow

trl = pytest.importorskip("trl", reason="the extra `bench` (trl) is not installed")

STEPS, PAIRS_A_STEP = 12, 8
RATE = 1e-3


def short_pairs(count):
    """The first HH pairs that are short enough for a byte-level tokenizer, as messages."""
    for raw in read_rows(str(HH)):
        try:
            comparison = HHFormat()(raw.row)
        except BadRow:
            continue
        chosen, rejected = ([dict(m) for m in r] for r in comparison.responses)
        row = {
            "prompt": [dict(m) for m in comparison.prompt],
            "chosen": chosen,
            "rejected": rejected,
        }
        if len(json.dumps(row, ensure_ascii=False).encode()) < 400 and count:
            count -= 1
            yield row


@needs(HH)
def test_step_losses_agree_with_trl(rmexp, write_rows, tmp_path):
    rows = list(short_pairs(150))
    file, start = write_rows(rows), tmp_path / "start"
    tokenizer = tiny_tokenizer()
    from_conf("model/tiny", hidden=64, layers=3).load_model(tokenizer, seed=7).save_pretrained(
        start
    )
    tokenizer.save_pretrained(start)

    data = from_conf("data/jsonl", path=file, cache=rmexp.environment["RMEXP_CACHE"])
    own = from_conf("model/hf", path=str(start)).load_tokenizer()
    from_conf("template/tokenizer").install(own)
    data.prepare(own, 0, lambda *_: None)
    order = [data.rows[i]["id"] for step in data.plan().steps(0) for i in step]
    theirs = trl_losses(
        start, [rows[int(name.removeprefix("row-")) - 1] for name in order], tmp_path
    )
    for layout in ("tree", "padded"):
        rmexp(
            "model=hf",
            f"model.path={start}",
            f"model.layout={layout}",
            "data=jsonl",
            f"data.path={file}",
            "loss=bradley_terry",
            "logger=none",
            "trainer.precision=32-true",
            f"trainer.max_steps={STEPS}",
            "trainer.validations=1",
            f"optim.lr={RATE}",
            "optim.head_lr=null",
            "optim.schedule=linear",
            f"data.batch_size={PAIRS_A_STEP}",
            "data.micro_batch_tokens=2000",
        )
        lines = map(json.loads, (rmexp.runs()[-1] / "metrics.jsonl").read_text().splitlines())
        ours = [line["train/loss"] for line in lines if "train/loss" in line]
        assert len(ours) == len(theirs) == STEPS
        assert ours == pytest.approx(theirs, abs=1e-4)
        assert abs(ours[-1] - ours[0]) > 1e-2, (
            "the model did learn: the agreement is not that of two constants"
        )


def trl_losses(start, rows, folder):
    """The loss of each step of TRL's RewardTrainer over `rows` in their order."""
    import datasets

    losses = []

    class Recording(trl.RewardTrainer):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            losses.append(loss.item())
            return loss

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Recording(
            model=str(start),
            args=trl.RewardConfig(
                output_dir=str(folder / "trl"),
                per_device_train_batch_size=PAIRS_A_STEP,
                max_steps=STEPS,
                learning_rate=RATE,
                lr_scheduler_type="linear",
                warmup_steps=round(0.1 * STEPS),
                adam_beta2=0.95,
                weight_decay=0.0,
                max_grad_norm=1.0,
                bf16=False,
                gradient_checkpointing=False,
                train_sampling_strategy="sequential",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                save_strategy="no",
                model_init_kwargs={"dtype": "float32"},
            ),
            train_dataset=datasets.Dataset.from_list(rows),
        ).train()
    return losses

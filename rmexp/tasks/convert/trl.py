"""TRL: the YAML of `trl reward --config FILE` (ScriptArguments, RewardConfig, ModelConfig).

Names and defaults are those of trl 1.16 and transformers 5.
"""

from typing import Any

from rmexp.tasks.convert.lora import convert_lora
from rmexp.tasks.convert.rows import convert_sources, note_differences, part_of
from rmexp.tasks.convert.settings import Count, Decay, NotNegative, Row, Settings
from rmexp.tasks.convert.training import Dialect, convert_training

DIALECT = Dialect(
    batch="per_device_train_batch_size",
    batch_default=8,
    total_batch=None,
    epochs="num_train_epochs",
    epochs_default=3.0,
    rate_default=1e-4,
    optimizer="optim",
    optimizer_default="adamw_torch",
    schedule="lr_scheduler_type",
    schedule_default="linear",
    warmup="warmup_steps",
    warmup_default=0.0,
    bf16_default=True,
)


MODEL = (
    Row("model_name_or_path", "model.path", str),
    Row("model_revision", "model.revision", str),
    Row("trust_remote_code", "model.trust_remote_code", bool),
    Row("attn_implementation", "model.attn_implementation", str),
    Row("gradient_checkpointing", "model.gradient_checkpointing", bool, True),
    Row("torch_compile", "model.compile", bool),
)


DATA = (
    Row("dataset_name", "data.path", str),
    Row("max_length", "data.max_length", Count, 1024),
)


LORA = (
    Row("lora_r", "tune.rank", Count, 16),
    Row("lora_alpha", "tune.alpha", Count, 32),
    Row("lora_dropout", "tune.dropout", Decay, 0.05),
)


SIGNS = (
    "model_name_or_path",
    "dataset_name",
    "per_device_train_batch_size",
    "num_train_epochs",
    "lr_scheduler_type",
    "center_rewards_coefficient",
)
"""A file with one of these is TRL's."""


def convert_trl(s: Settings) -> None:
    """Convert what `trl reward` reads."""
    s.take_rows(MODEL)
    if not s.has("model_name_or_path"):
        s.leave("model_name_or_path", "the source has none: give model=hf model.path=NAME")
    _data(s)
    s.choose("loss", "bradley_terry", "the loss of TRL")
    s.put("loss.margin", 0.0, "TRL takes a column margin where rows have one: then `data`")
    s.take_rows([Row("center_rewards_coefficient", "loss.centring", NotNegative)])
    on = "use_peft" if s.take("use_peft", bool, False) else None
    convert_lora(s, on, "use_peft: true", LORA)
    if on and s.values.get("lora_task_type") != "SEQ_CLS" and not s.has("lora_modules_to_save"):
        s.notes.append("TRL leaves the head as it was drawn here (lora_task_type); it trains here.")
    _template(s)
    strategy = s.take("eval_strategy", bool | str, "no")  # YAML reads `no` as false
    convert_training(s, DIALECT, evaluates=strategy not in ("no", False))
    _logger(s)
    if s.values.get("dtype") == "float32":
        s.take("dtype", str)
    note_differences(s, "drops pairs with a longer side")
    s.notes.append("Rows of text: TRL joins prompt and answer as they are, rmexp by the template.")


def _data(s: Settings) -> None:
    if s.has("max_length") or "max_length" not in s.values:
        s.take_rows(DATA)
    else:
        s.take_rows(DATA[:1])
        s.leave("max_length", "null: set data.max_length to what the model and the memory hold")
    if "data.path" in s.lines:
        s.choose("data", "jsonl", "dataset_name")
    if entries := s.take("datasets", list[Any]):
        if s.lines.pop("data.path", None) is not None:
            s.leave("dataset_name", "TRL ignores it beside datasets")
        convert_sources(s, "datasets", entries, lambda *_: None)
        return
    _splits(s)
    if s.has("dataset_config"):
        s.leave("dataset_config", "save its rows as a file and give that as data.path")


def _splits(s: Settings) -> None:
    """rmexp knows train and test by their names; another split is given with the path."""
    path, comment = s.lines.get("data.path", ("", ""))
    train = s.take("dataset_train_split", str, "train")
    if train != "train" and (part := part_of(path, train)):
        s.put("data.path", part, f"{comment}, dataset_train_split")
    elif train != "train":
        s.leave("dataset_train_split", "save the rows as a file and give that as data.path")
    test = s.take("dataset_test_split", str, "test")
    usual = test == "test" and train == "train"
    if s.values.get("eval_strategy") in (None, "no", False) or usual:
        return
    if part := part_of(path, test):
        s.put("data.val_path", part, "dataset_test_split, which TRL evaluates on")
    else:
        s.leave("dataset_test_split", "save the rows as a file and give that as data.val_path")


def _template(s: Settings) -> None:
    path = s.take("chat_template_path", str)
    if path is None:
        s.choose("template", "tokenizer", s.by_default("chat_template_path"))
    elif path.endswith((".jinja", ".j2")):
        s.choose("template", "jinja", "chat_template_path")
        s.put("template.path", path, "chat_template_path")
    else:
        s.leave("chat_template_path", "template.path is a Jinja file: chat_template.jinja in there")


def _logger(s: Settings) -> None:
    s.take_rows([Row("run_name", "name", str)])
    report_to = s.values.get("report_to")
    named = report_to if isinstance(report_to, list) else [report_to]
    if named in (["none"], ["wandb"]):
        s.choose("logger", named[0], "report_to")
        s.seen.add("report_to")

"""Rules for the keys of TRL and of Axolotl that are not converted one by one."""

import math
import re

from rmexp.tasks.convert.datasets import convert_datasets, convert_splits
from rmexp.tasks.convert.settings import KEYS, PeerSettings

JINJA = (".jinja", ".j2")
EVALUATION = ("eval_strategy", "eval_steps", "evals_per_epoch")
LOGGERS = ("wandb", "tensorboard", "trackio", "none")
SELECTION = ("load_best_model_at_end", "metric_for_best_model", "early_stopping_patience")


def convert_trl(s: PeerSettings) -> None:
    """Convert what is left of a configuration of `trl reward`, with the table's `single` done."""
    s.put("loss", "bradley_terry", note="the loss of TRL")
    s.put("loss.margin", 0.0, note="TRL takes a column margin where rows have one: then `data`")
    if "max_length" in s.values and not s.given("max_length"):
        del s.lines["data.max_length"]
        s.leave("max_length", "null: set data.max_length to what the model and the memory hold")
    evaluates = s.take("eval_strategy") not in (None, "no", False)  # YAML reads `no` as false
    if s.given("datasets"):
        s.lines.pop("data.path", None)
        for name in s.given("dataset_name", "dataset_train_split", "dataset_test_split"):
            s.leave(name, "TRL ignores it beside datasets")
        convert_datasets(s)
    else:
        convert_splits(s, evaluates)
    path = s.take("chat_template_path")
    if path and not path.endswith(JINJA):
        s.leave("chat_template_path", "template.path is a Jinja file: chat_template.jinja in there")
    else:
        _template(s, "chat_template_path")
    if s.take("report_to") in [[name] for name in LOGGERS]:
        s.put("logger", s.take("report_to")[0], "report_to")
    elif s.get("report_to"):
        s.leave("report_to", f"logger is one of {', '.join(LOGGERS)}")
    _training(s, evaluates)
    trains_head = s.get("lora_task_type") == "SEQ_CLS" or s.given("lora_modules_to_save")
    if s.value("tune") == "lora" and not trains_head:
        s.notes.append("TRL does not train the new head here (lora_task_type); rmexp does.")


def convert_axolotl(s: PeerSettings) -> None:
    """Convert what is left of a reward-model configuration, or of its key `reward_model` alone."""
    datasets, share = s.take("datasets") or [], s.take("val_set_size") or 0
    if datasets:
        convert_datasets(s)
    if 0 < share < 1:
        s.convert("val_set_size")
    elif share:
        s.leave("val_set_size", "a number of rows: data.val_share is a share of the prompts")
    own = datasets[0].get("chat_template") if len(datasets) == 1 else None
    s.values |= {"chat_template": own} if own else {}
    if s.given("chat_template_jinja") and s.get("chat_template") in (None, "jinja"):
        _template(s, "chat_template_jinja")
    else:
        s.put("template", "tokenizer", "chat_template")
        s.convert("chat_template")
    if s.get("adapter") == "qlora":
        s.leave("adapter", "qlora: LoRA; on a GPU tune=qlora holds what is frozen in 4 bits")
    rows, off = s.given("test_datasets") or share, s.get("eval_strategy") in ("no", False)
    _training(s, bool(rows and s.given(*EVALUATION) and not off))


def _template(s: PeerSettings, name: str) -> None:
    """Set the template to a Jinja file, to the text of one, or to the tokenizer's own."""
    source = s.take(name) or ""
    is_file = source.endswith(JINJA)
    s.put("template", "jinja" if is_file else "tokenizer", name)
    if source:
        s.put("template.path" if is_file else "template.source", source, name)


def _training(s: PeerSettings, evaluates: bool) -> None:
    """Convert what Hugging Face's trainer reads; `evaluates`: the source does so in training."""
    if s.value("tune") == "lora":
        _lora(s)
    else:
        switch = "use_peft: true" if s.peer == "TRL" else "adapter: lora"
        for name in (name for name in KEYS if name.startswith("lora_") and s.get(name)):
            s.leave(name, f"{s.peer} reads it only with {switch}")
    if "optim.lr" in s.lines:
        s.put("optim.head_lr", None, note=f"null: as lr; {s.peer} has one learning rate")
    _length(s)
    _warmup(s)
    names = ("per_device_train_batch_size", "gradient_accumulation_steps")
    batch, accumulation = (s.take(name) for name in names)
    s.put("data.batch_size", batch * accumulation, *names, note=f"{batch} x {accumulation}")
    s.convert("batch_size")  # Axolotl's total
    sharding = [name for name in ("fsdp", "fsdp_config", "deepspeed") if s.get(name)]
    if sharding:  # FSDP replaces DeepSpeed, which shards too
        s.put("trainer", "fsdp", sharding[0])
        if s.value("model.compile"):
            del s.lines["model.compile"]
            s.leave("torch_compile", "trainer=fsdp does not go with model.compile=true")
    if s.get("fp16") and not s.get("bf16"):
        s.put("trainer.precision", "auto", note="there is no fp16")
    elif s.get("bf16") == "full":
        s.leave("bf16", "full: weights that train are kept in fp32; bf16-mixed computes in bf16")
    if evaluates:
        _validations(s)
        _selection(s)
        return
    for name in filter(s.get, (*EVALUATION[1:], *SELECTION)):
        s.leave(name, f"{s.peer} evaluates nothing here")
    if s.whole:
        s.put("trainer.validations", 1, note=f"at the end: {s.peer} keeps the last weights here")


def _lora(s: PeerSettings) -> None:
    s.convert("lora_r", "lora_alpha", "lora_dropout")
    names = s.take("lora_target_modules") or []
    if s.take("lora_target_linear") or names == ["all-linear"]:
        given = s.given("lora_target_linear", "lora_target_modules")
        s.put("tune.target_modules", "all-linear", *given)
    elif not all(re.fullmatch(r"[\w.]+", name) for name in names):
        s.leave("lora_target_modules", "a regular expression: list names in tune.target_modules")
    elif s.peer == "TRL" and not names:
        s.put("tune.target_modules", None, "lora_target_modules", note="peft's choice")
    else:
        s.convert("lora_target_modules")
    saved = ", ".join(sorted({*(s.take("lora_modules_to_save") or [])} - {"score", "classifier"}))
    if saved:
        s.leave("lora_modules_to_save", f"{saved}: beside LoRA's matrices the head alone trains")
    if s.value("tune.dropout"):
        s.notes.append("tune.dropout above 0 pads rows; with 0 shared prompts are computed once.")


def _length(s: PeerSettings) -> None:
    steps, epochs = s.take("max_steps"), s.take("num_train_epochs")
    if steps > 0:
        s.put("trainer.max_steps", steps, "max_steps")
        s.put("trainer.max_epochs", steps, note="never reached: max_steps ends the run")
        return
    s.put("trainer.max_epochs", math.ceil(epochs), "num_train_epochs")
    if epochs % 1:
        s.leave("num_train_epochs", f"{epochs:g} is not whole: set trainer.max_steps as well")


def _warmup(s: PeerSettings) -> None:
    steps, total = s.take("warmup_steps") or 0, s.value("trainer.max_steps")
    if s.take("lr_scheduler_type") == "constant":
        s.put("optim.warmup", 0.0, "lr_scheduler_type", note="constant has no warm-up")
    elif steps >= 1 and total:
        s.put("optim.warmup", min(1.0, steps / total), "warmup_steps", "max_steps")
    elif steps >= 1:
        s.leave("warmup_steps", f"set optim.warmup to {steps:g} / the number of steps of the run")
    else:  # below 1 warmup_steps is a share, since transformers 5
        no_ratio = s.take("warmup_ratio") is None
        s.convert("warmup_steps" if steps or no_ratio else "warmup_ratio")


def _validations(s: PeerSettings) -> None:
    """rmexp counts the validations of a run, Hugging Face's trainer the steps between them."""
    strategy, every, per_epoch = (s.take(name) for name in EVALUATION)
    steps, epochs, count = s.value("trainer.max_steps"), s.value("trainer.max_epochs"), 0
    if epochs and not steps and (per_epoch or strategy == "epoch"):
        count = epochs * (per_epoch or 1)
    elif every and (every < 1 or steps):
        count = max(1, round(1 / every) if every < 1 else int(steps // every))
    given = s.given(*EVALUATION)
    if count:
        s.put("trainer.validations", count, *given)
    else:
        s.leave(given[-1], "set trainer.validations to the number of validations of the whole run")


def _selection(s: PeerSettings) -> None:
    """Which weights are the result: those of the best validation, or the last ones."""
    s.convert("early_stopping_patience")
    metric = (s.take("metric_for_best_model") or "loss").removeprefix("eval_")
    if not (s.take("load_best_model_at_end") or s.value("trainer.patience")):
        s.notes.append(
            f"{s.peer} keeps the last weights here (load_best_model_at_end), rmexp those of the "
            "best validation; trainer.validations=1 keeps the last ones."
        )
    elif metric in ("loss", "accuracy", "margin"):
        s.put("trainer.monitor", f"val/{metric}", *s.given(*SELECTION))
    else:
        s.leave("metric_for_best_model", "trainer.monitor is val/accuracy, val/loss or the like")

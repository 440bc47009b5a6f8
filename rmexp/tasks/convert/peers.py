"""Rules for the keys that only TRL (`trl reward --config FILE`) or only Axolotl has."""

from rmexp.tasks.convert.datasets import convert_datasets, convert_splits
from rmexp.tasks.convert.settings import PeerSettings
from rmexp.tasks.convert.training import EVALUATION, convert_training

JINJA = (".jinja", ".j2")


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
    if s.take("report_to") in (["none"], ["wandb"]):
        s.put("logger", s.take("report_to")[0], "report_to")
    elif s.get("report_to"):
        s.leave("report_to", "logger is wandb or none")
    convert_training(s, evaluates)
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
        s.leave("adapter", "qlora: LoRA, but on weights that are kept in fp32")
    rows, off = s.given("test_datasets") or share, s.get("eval_strategy") in ("no", False)
    convert_training(s, bool(rows and s.given(*EVALUATION) and not off))


def _template(s: PeerSettings, name: str) -> None:
    """Set the template to a Jinja file, to the text of one, or to the tokenizer's own."""
    source = s.take(name) or ""
    is_file = source.endswith(JINJA)
    s.put("template", "jinja" if is_file else "tokenizer", name)
    if source:
        s.put("template.path" if is_file else "template.source", source, name)

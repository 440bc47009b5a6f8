"""Axolotl's and TRL's settings -> experiments that compose, state defaults and hide nothing."""

import dataclasses
import re
from typing import NamedTuple

import pytest
import yaml

from rmexp.config.compose import compose_config, without_hydra
from rmexp.config.schema import register
from rmexp.config.validate import check_config
from rmexp.core.errors import UserError
from rmexp.tasks.convert.experiment import convert_settings, experiment_text
from rmexp.tasks.convert.settings import KEYS
from tests.conftest import ROOT

register()
CONVERSIONS = ROOT / "tests" / "tasks" / "conversions"
NAMES = sorted(file.stem for file in CONVERSIONS.glob("*.yaml"))
SEED = "reward_model: {type: pairwise, loss: contrastive, margin: 1.0}"
TRL = "model_name_or_path: Qwen/Qwen3-0.6B\ndataset_name: trl-lib/ultrafeedback_binarized\n"
AXOLOTL = "base_model: google/gemma-2-2b\nreward_model: true\nlearning_rate: 1e-5\n"


class Converted(NamedTuple):
    text: str
    left: dict
    notes: list


def converted(source, name="x"):
    settings = convert_settings(source, f"{name}.yaml")
    command = f"python -m rmexp --config-dir . +experiment={name}"
    return Converted(experiment_text(settings, command), settings.left, settings.notes)


def composed(source, folder):
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / "x.yaml").write_text(converted(source).text)
    return compose_config(["+experiment=x"], str(folder))


@pytest.mark.parametrize("name", NAMES)
def test_real_looking_configurations_become_exactly_these_experiments(name):
    source = (CONVERSIONS / f"{name}.yaml").read_text()
    wanted = (CONVERSIONS / "experiment" / f"{name}.yaml").read_text()
    assert converted(source, name).text == wanted
    compose_config([f"+experiment={name}"], str(CONVERSIONS))


def test_there_are_three_of_them():
    assert NAMES == ["axolotl_gemma", "axolotl_llama3", "trl_qwen"]


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_out_binds(name):
    config = without_hydra(compose_config([f"+experiment={name}"], str(CONVERSIONS)))
    check_config(config)


def test_the_seeds_settings_are_the_experiment_of_that_name():
    text = (ROOT / "conf/experiment/axolotl_pairwise.yaml").read_text()
    command = "python -m rmexp +experiment=axolotl_pairwise data=jsonl data.path=FILE"
    assert experiment_text(convert_settings(SEED, "axolotl.yaml"), command) == text
    config = compose_config(["+experiment=axolotl_pairwise"])
    assert (config.loss["_target_"], config.loss.margin) == ("rmexp.losses.Contrastive", 1.0)


def test_every_key_of_the_source_is_accounted_for():
    for name in NAMES:
        source = (CONVERSIONS / f"{name}.yaml").read_text()
        text = converted(source, name).text
        assert [key for key in yaml.safe_load(source) if not re.search(rf"\b{key}\b", text)] == []


def test_trls_defaults_are_stated(tmp_path):
    config = composed(TRL, tmp_path)
    assert (config.model.path, config.model.gradient_checkpointing) == ("Qwen/Qwen3-0.6B", True)
    assert (config.data.batch_size, config.data.max_length, config.seed) == (8, 1024, 42)
    optim = {
        "lr": 1e-4,
        "head_lr": None,
        "weight_decay": 0.0,
        "beta1": 0.9,
        "beta2": 0.999,
        "warmup": 0.0,
        "schedule": "linear",
        "clip": 1.0,
    }
    assert {key: config.optim[key] for key in optim} == optim
    assert (config.trainer.max_epochs, config.trainer.precision) == (3, "bf16-mixed")
    assert config.trainer.validations == 1, "the last weights are TRL's result"


def test_axolotls_defaults_are_stated(tmp_path):
    config = composed(AXOLOTL, tmp_path)
    assert (config.data.batch_size, config.data.max_length, config.seed) == (1, 512, 42)
    assert (config.optim.schedule, config.optim.warmup, config.optim.beta2) == (
        "cosine",
        0.03,
        0.999,
    )
    assert (config.trainer.max_epochs, config.trainer.precision) == (1, "auto")
    assert (config.model.gradient_checkpointing, config.model.dropout) == (False, 0.0)


@pytest.mark.slow
def test_the_defaults_are_those_of_the_trl_that_is_installed():
    trl = pytest.importorskip("trl")
    fields = (*dataclasses.fields(trl.RewardConfig), *dataclasses.fields(trl.ModelConfig))
    theirs = {field.name: field.default for field in fields}
    ours = {key: row["trl"] for key, row in KEYS.items() if "trl" in row}
    assert theirs["bf16"] is None, "true unless fp16 is"
    assert theirs["lora_target_modules"] is None
    assert theirs["optim"] in KEYS["optim"]["values"]
    for key in ("bf16", "optim"):
        del ours[key]
    assert {key: theirs[key] for key in ours} == ours


@pytest.mark.parametrize(
    ("lines", "ours", "value"),
    [
        ("warmup_ratio: 0.2", "optim.warmup", 0.2),
        ("warmup_steps: 0.2", "optim.warmup", 0.2),
        ("{warmup_steps: 10, max_steps: 40}", "optim.warmup", 0.25),
        ("lr_scheduler_type: constant\nwarmup_steps: 10", "optim.warmup", 0.0),
        ("lr_scheduler_type: constant_with_warmup", "optim.schedule", "constant"),
        ("max_grad_norm: 0", "optim.clip", None),
        ("max_steps: -1", "trainer.max_epochs", 3),
        ("bf16: false", "trainer.precision", "32-true"),
        ("fp16: true", "trainer.precision", "auto"),
        ("deepspeed: zero2.json", "trainer.strategy", "fsdp"),
        ("fsdp: full_shard auto_wrap", "trainer.strategy", "fsdp"),
        ("deepspeed: null", "trainer.strategy", "single"),
        ("eval_strategy: epoch", "trainer.validations", 3),
        ("{eval_strategy: steps, eval_steps: 0.1}", "trainer.validations", 10),
        ("eval_strategy: no", "trainer.validations", 1),
        ("chat_template_path: my.jinja", "template.path", "my.jinja"),
        ("disable_dropout: false", "model.dropout", None),
        ("report_to: [none]", "logger", {"_target_": "rmexp.tracking.mirror.NoLogger"}),
        ("report_to: tensorboard", "logger.table_rows", 200),
        ("dataset_train_split: a", "data.path", "trl-lib/ultrafeedback_binarized:a"),
        (
            "{dataset_train_split: a, dataset_test_split: b, eval_strategy: epoch}",
            "data.val_path",
            "trl-lib/ultrafeedback_binarized:b",
        ),
        ("datasets: [{path: json, data_files: a.jsonl}]", "data.path", "a.jsonl"),
        ("run_name: ${oc.env:HOME}", "name", "${oc.env:HOME}"),
    ],
)
def test_settings_that_are_not_taken_over_as_they_are(lines, ours, value, tmp_path):
    config = composed(_joined(TRL, lines), tmp_path)
    found = config
    for key in ours.split("."):
        found = found[key]
    assert found == value


def _joined(source, lines):
    more = yaml.safe_load(lines)
    return source + yaml.safe_dump(more)


@pytest.mark.parametrize(
    ("source", "key", "words"),
    [
        (
            TRL + "warmup_steps: 100",
            "warmup_steps",
            "set optim.warmup to 100 / the number of steps",
        ),
        (TRL + "lora_r: 8", "lora_r", "TRL reads it only with use_peft: true"),
        (TRL + "use_peft: true\nuse_dora: true", "use_dora", "tune=lora has rank"),
        (TRL + "use_peft: true\nlora_task_type: SEQ_CLS", "lora_task_type", "the head trains"),
        (
            TRL + "use_peft: true\nlora_modules_to_save: [score, embed_tokens]",
            "lora_modules_to_save",
            "embed_tokens: beside LoRA's matrices the head alone trains",
        ),
        (
            TRL + "use_peft: true\nlora_target_modules: .*_proj",
            "lora_target_modules",
            "a regular expression",
        ),
        (AXOLOTL + "lora_target_linear: true", "lora_target_linear", "only with adapter: lora"),
        (AXOLOTL + "adapter: llama-adapter", "adapter", "there is no llama-adapter"),
        (AXOLOTL + "adapter: qlora", "adapter", "tune=qlora holds what is frozen in 4 bits"),
        (AXOLOTL + "adapter: lora", "lora_r", "Axolotl no default: give tune.rank"),
        (AXOLOTL + "adapter: lora", "lora_target_modules", "all-linear is taken"),
        (TRL + "parallelism_config: {tp_size: 2}", "parallelism_config", "trainer=ddp"),
        (TRL + "num_processes: 4", "num_processes", "trainer.devices"),
        (TRL + "fsdp: full_shard\ntorch_compile: true", "torch_compile", "trainer=fsdp"),
        (TRL + "fp16: true", "fp16", "bf16-mixed"),
        (TRL + "max_length: null", "max_length", "data.max_length"),
        (TRL + "optim: adafactor", "optim", "AdamW takes the place of adafactor"),
        (TRL + "learning_rte: 1", "learning_rte", "not known (did you mean learning_rate?)"),
        (TRL + "dataset_config: sub", "dataset_config", "save its rows as a file"),
        (TRL + "label_smoothing_factor: 0.1", "label_smoothing_factor", "loss.label_smoothing"),
        ("center_rewards_coefficient: 0.1", "model_name_or_path", "model.path=NAME"),
        (TRL + "datasets: [{path: a/b}]", "dataset_name", "ignores it"),
        (AXOLOTL + "datasets: [{path: a, split: b}]", "datasets[0].split", "read whole"),
        (AXOLOTL + "chat_template: alpaca", "chat_template", "there is no alpaca"),
        (AXOLOTL + "val_set_size: 500", "val_set_size", "number of rows"),
        (AXOLOTL + "num_epochs: 1.5", "num_epochs", "trainer.max_steps"),
        (AXOLOTL + "evals_per_epoch: 2", "evals_per_epoch", "evaluates nothing"),
        (AXOLOTL + "bf16: full", "bf16", "fp32"),
        (SEED.replace("}", ", head: 2}"), "reward_model.head", "not known"),
    ],
)
def test_what_has_no_counterpart_is_listed(source, key, words):
    found = converted(source)
    assert words in found.left[key]
    assert key in found.text


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (TRL + "use_peft: true", [16, 32, 0.05, None]),
        (TRL + "use_peft: true\nlora_target_modules: [q_proj]", [16, 32, 0.05, ["q_proj"]]),
        (TRL + "use_peft: true\nlora_target_modules: [all-linear]", [16, 32, 0.05, "all-linear"]),
        (
            AXOLOTL + "adapter: lora\nlora_r: 8\nlora_alpha: 4\nlora_target_modules: [a, b.c]",
            [8, 4, 0.0, ["a", "b.c"]],
        ),
        (
            AXOLOTL + "adapter: qlora\nlora_r: 8\nlora_dropout: 0.1\nlora_target_linear: true",
            [8, None, 0.1, "all-linear"],
        ),
    ],
)
def test_lora_is_taken_over(source, wanted, tmp_path):
    tune = composed(source, tmp_path).tune
    assert tune["_target_"] == "rmexp.models.tuning.LoRA"
    assert [tune.rank, tune.alpha, tune.dropout, tune.target_modules] == wanted
    check_config(without_hydra(composed(source, tmp_path)))


def test_what_lora_does_otherwise_is_said():
    notes = converted(TRL + "use_peft: true").notes
    assert any("with 0 shared prompts are computed once" in note for note in notes)
    assert any("TRL does not train the new head" in note for note in notes)
    trained = TRL + "use_peft: true\nlora_task_type: SEQ_CLS\nlora_dropout: 0"
    assert not any("new head" in note or "tune." in note for note in converted(trained).notes)


def test_several_data_sets_are_a_mixture(tmp_path):
    source = (CONVERSIONS / "axolotl_llama3.yaml").read_text()
    config = composed(source, tmp_path)
    orca = config.data.sources["distilabel_intel_orca_dpo_pairs"]
    assert list(config.data.sources) == ["my_pairs", "distilabel_intel_orca_dpo_pairs"]
    assert orca.path == "argilla/distilabel-intel-orca-dpo-pairs:train[:10%]"
    assert (orca.fields.prompt, orca.fields.system_prompt) == ("input", "system")
    assert config.data.sources.my_pairs.path == "data/my pairs.jsonl"
    assert config.data.batch_size == 32


def test_a_jinja_template_of_axolotl_is_carried_over(tmp_path):
    template = '{% for m in messages %}\n[{{ m.role }}] "{{ m.content }}"{% endfor %}'
    more = yaml.safe_dump({"chat_template": "jinja", "chat_template_jinja": template})
    assert composed(AXOLOTL + more, tmp_path).template.source == template


def test_every_template_that_is_named_is_there():
    options = {file.stem for file in (ROOT / "conf/template").glob("*.yaml")}
    assert set(KEYS["chat_template"]["values"].values()) <= options


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("a: [1", "source=x.yaml, line 1: cannot be read as YAML"),
        ("- a\n- b", "source=x.yaml: expected a mapping of settings"),
        ("", "source=x.yaml: expected a mapping of settings"),
        ("lr: 1", "source=x.yaml: settings of an unknown framework; known are settings of Axolotl"),
        ("base_model: x\nrl: dpo", "source=x.yaml: Axolotl without reward_model"),
        (TRL + "stage: rm", "source=x.yaml: stage is a key of LLaMA-Factory"),
        (TRL + "learning_rate: abc", "x.yaml, learning_rate: abc should be a number above 0."),
        (TRL + "num_train_epochs: -1", "x.yaml, num_train_epochs: -1 should be a number above 0."),
        (TRL + "seed: true", "x.yaml, seed: True should be a whole number of 0 or more."),
        (AXOLOTL + "datasets: [{type: x}]", "x.yaml, datasets[0].path: None should be text."),
        (SEED.replace("pairwise", "listwise"), "reward_model.type: listwise should be pairwise."),
        (
            SEED.replace("contrastive", "triplet"),
            "reward_model.loss: triplet should be contrastive or bradley_terry.",
        ),
        (SEED.replace("loss: contrastive, ", ""), "bradley_terry: it is missing."),
        (SEED.replace("1.0", "-1"), "reward_model.margin: -1 should be a number of 0 or more."),
    ],
)
def test_what_cannot_be_converted_gets_one_sentence(source, sentence):
    with pytest.raises(UserError) as caught:
        converted(source)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_command_writes_lists_and_says_how_to_run(rmexp):
    (rmexp.folder / "trl.yaml").write_text(TRL + "neftune_noise_alpha: 5\n")
    done = rmexp("task=convert", "source=trl.yaml", "out=experiment/mine.yaml")
    written = (rmexp.folder / "experiment" / "mine.yaml").read_text()
    assert written.startswith(
        "# @package _global_\n# python -m rmexp --config-dir . +experiment=mine"
    )
    assert "neftune_noise_alpha: there is no noise on embeddings" in done.stdout
    assert "run it:  python -m rmexp --config-dir . +experiment=mine" in done.stdout
    words = ("--config-dir", ".", "+experiment=mine", "--cfg", "job")
    assert "path: Qwen/Qwen3-0.6B" in rmexp(*words).stdout
    again = rmexp("task=convert", "source=trl.yaml", "out=experiment/mine.yaml", check=False)
    assert "out=experiment/mine.yaml: that exists; name another file." in again.stderr
    assert sorted(f.name for f in (rmexp.folder / "experiment").iterdir()) == ["mine.yaml"]


@pytest.mark.slow
def test_a_file_outside_a_folder_named_experiment_is_moved_first(rmexp):
    (rmexp.folder / "a.yaml").write_text(SEED)
    done = rmexp("task=convert", "source=a.yaml", "out=b.yaml")
    assert "mkdir -p experiment && mv b.yaml experiment/" in done.stdout
    assert "run it:  python -m rmexp --config-dir . +experiment=b data=jsonl" in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["out=a.yaml"], "task=convert needs source=FILE."),
        (["source=a.yaml"], "task=convert needs out=FILE."),
        (["source=none.yaml", "out=b.yaml"], "source=none.yaml: there is no such file."),
        (["source=a.yaml", "out=b.json"], "out=b.json: name a file NAME.yaml"),
        (["source=a.yaml", "out=b.yaml", "loss=contrastive"], "task=convert does not use loss"),
    ],
)
def test_a_command_that_cannot_be_done_gets_one_sentence(words, sentence, rmexp):
    (rmexp.folder / "a.yaml").write_text(SEED)
    done = rmexp("task=convert", *words, check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert not (rmexp.folder / "b.yaml").exists()


@pytest.mark.slow
def test_the_experiment_of_the_seeds_settings_runs(rmexp, write_rows):
    rows = [
        {"context": f"q {n}", "chosen": "yes", "rejected": "no", "rating": n % 5} for n in range(30)
    ]
    rmexp(
        "+experiment=axolotl_pairwise",
        "data=jsonl",
        f"data.path={write_rows(rows)}",
        "model=tiny",
        "logger=none",
        "trainer.validations=1",
    )

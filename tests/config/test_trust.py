"""A run directory of a stranger: nothing in it runs, and nothing leads out of it."""

import json
import re
import sys

import pytest
import yaml
from omegaconf import OmegaConf

import rmexp as package
from rmexp import __version__
from rmexp.config.compose import compose_config, locate, without_hydra
from rmexp.config.schema import CONF_DIR, GROUPS, register
from rmexp.config.trust import Trust, check_part
from rmexp.config.yaml_io import read_yaml
from rmexp.core.errors import UserError
from rmexp.inference.checkpoint import inherit_config, saved_config
from rmexp.runner.preflight import preflight

register()

TARGETS = (
    *("evil.run", "numpy.testing.runstring", "os.system", "builtins.eval", "subprocess.run"),
    *("rmexp.core.errors.os.system", "rmexp.evil.subprocess.run", "rmexp.losses.base.nn.Linear"),
    *("rmexp.losses.pairs.Contrastive.mro", "rmexp.losses.pairs.F.relu", "rmexp..os.system"),
    *("rmexp.training.finish.remove_checkpoints", "rmexp.config.yaml_io.write_yaml"),
    *("rmexp.tracking.run_directory.RunDirectory.claim", "rmexp.core.atomic_file.os"),
    *("rmexp.training.trainer.ModelCheckpoint", "rmexp.models.pretrained.transformers.pipeline"),
    *("rmexp", "rmexp.", "", ".os.system", "rmexp.os system", "rmexp.ｌosses.Contrastive"),
    *("${oc.env:TARGET}", "${seed}", "rmexp.losses.${seed}", None, 3, ["os.system"], {"a": "os.x"}),
)
"""Code of others, by every way to name it."""

PLACES = (
    *("task", "model", "template", "data", "loss", "tune", "optim", "trainer", "logger", "eval"),
    *("data.format", "data.format.parse", "data.sources.one", "data.sources.one.format.parse"),
    *("data.template", "loss.pairs", "loss.others.0.1", "model.base", "model.tune"),
    *("eval.sets.one.suite", "eval.sets.one.format", "logger.other.0", "data.fields.prompt"),
    *("hydra.launcher", "anything", "tune._args_.0", "tune.more._args_.0.deep"),
)
"""Where a node may stand."""


def nest(place, node):
    """The node in mappings and lists: `a.0.b` is `{a: [{b: node}]}`."""
    for key in reversed(place.split(".")):
        node = [*[None] * int(key), node] if key.isdigit() else {key: node}
    return node


@pytest.fixture
def write_run(tmp_path):
    """Write a run directory with what a configuration has besides; its path."""

    def write(config):
        run = tmp_path / "run"
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        for name in ("last", "best"):
            (run / "checkpoints" / f"{name}.ckpt").touch()
        facts = {"status": "failed", "interrupted": True, "task": "train"}
        (run / "result.json").write_text(json.dumps(facts))
        content = {"rmexp_version": __version__} | config
        (run / "config.yaml").write_text(yaml.dump(content, Dumper=NoAliases))
        return run

    return write


class NoAliases(yaml.SafeDumper):
    """As rmexp writes."""

    def ignore_aliases(self, data):
        return True


@pytest.mark.parametrize("place", PLACES)
def test_no_target_of_other_code_is_taken(place, write_run, tmp_path, monkeypatch):
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\ndef run(*a, **k): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TARGET", "evil.run")
    key = re.sub(r"\.(\d+)", r"[\1]", place)
    for target in TARGETS:
        more = {"_partial_": True, "_args_": ["touch x"]} if target == TARGETS[0] else {}
        run = write_run(nest(place, {"_target_": target} | more))
        with pytest.raises(UserError) as refused:
            saved_config(run, Trust())
        assert f"{key}._target_={target}" in str(refused.value)
    assert "evil" not in sys.modules
    assert not marker.exists()


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("loss", "rmexp.data.formats.hh.HH"),
        ("data.format", "rmexp.losses.Contrastive"),
        ("data", "rmexp.data.splits.SplitPolicy"),
        ("tune", "rmexp.models.tuning.layers"),
        ("trainer", "rmexp.training.trainer.check_disk"),
        ("data.format", "rmexp.data.formats.messages.prompt_messages"),
        ("model", "rmexp.tasks.convert.task.convert"),
    ],
)
def test_a_part_of_rmexp_stands_in_its_own_group(place, target, write_run):
    run = write_run(nest(place, {"_target_": target}))
    with pytest.raises(UserError, match=rf"{place}\._target_={target} is nothing that"):
        saved_config(run, Trust())


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["loss=mix", "tune=lora", "model=tiny", "logger=none"],
        ["eval=judgebench", "eval.path=x", "task=evaluate", "checkpoint=x", "data=ukp"],
        ["data=mix", "+data@data.sources.one=ukp_votes", "data.sources.one.template.system=Hi"],
        ["+eval/several@eval=several", "task=inspect"],
    ],
)
def test_what_rmexp_writes_is_read_as_it_is(words, write_run):
    if words[:1] == ["data=mix"]:
        words = [*words[:2], "+template@data.sources.one.template=tokenizer"]
    if words[-1:] == ["task=inspect"]:
        words = ["eval=several", "task=inspect"]
    config = without_hydra(compose_config(words))
    content = OmegaConf.to_container(config, resolve=True) | {"name": "a ${b} \\${c} \\\\${d}"}
    saved = saved_config(write_run(content), Trust())
    assert OmegaConf.to_container(saved, resolve=True) == content


def test_every_option_is_a_part_of_its_group():
    files = [file for group in GROUPS for file in (CONF_DIR / group).glob("*.yaml")]
    assert len(files) > 80
    for file in files:
        for path, target in Trust().own_targets({file.parent.name: read_yaml(file)}, str(file)):
            check_part(path, target, locate(path, target), str(file))


def test_the_command_line_names_what_else_may_be(write_run):
    run = write_run({"loss": {"_target_": "my.Loss"}, "data": {"format": {"_target_": "my.read"}}})
    with pytest.raises(UserError, match=re.escape("add 'trust=[my.read,my.Loss]' if you")):
        saved_config(run, Trust())
    words = ["trust=[my.Loss]", "data.format={_target_: my.read}"]
    trust = Trust.of(without_hydra(compose_config(words)))
    assert saved_config(run, trust).loss["_target_"] == "my.Loss"
    with pytest.raises(UserError, match=r"data\.format\._target_=my\.read"):
        package.load(run, trust=["my.Loss"])


def test_code_of_a_model_is_asked_for_again(write_run):
    run = write_run({"model": {"path": "x", "trust_remote_code": True}})
    with pytest.raises(UserError, match=r"model\.trust_remote_code=True runs code"):
        saved_config(run, Trust())
    assert saved_config(run, Trust(remote_code=True)).model.trust_remote_code
    words = without_hydra(compose_config(["model.trust_remote_code=true"]))
    assert Trust.of(words).remote_code


@pytest.mark.parametrize(
    "words",
    [
        ["task=evaluate", "checkpoint=run"],
        ["task=export", "checkpoint=run", "out=x"],
        ["task=score", "checkpoint=run", "data.path=rows.jsonl", "out=x.jsonl"],
        ["resume=run"],
    ],
)
def test_commands_refuse_it_before_anything_is_written(words, write_run, rmexp, write_rows):
    write_rows([{"prompt": "p", "response": "r"}])
    write_run(
        {"loss": {"_target_": "numpy.testing.runstring", "astr": "open('x','w')", "dict": {}}}
    )
    done = rmexp(
        *words, "logger=none" if words[0] != "resume=run" else "trainer=default", check=False
    )
    assert done.returncode == 1
    start = "rmexp: run/config.yaml: loss._target_=numpy.testing.runstring is no part of rmexp"
    assert done.stderr.startswith(start)
    assert sorted(p.name for p in rmexp.folder.iterdir()) == ["rows.jsonl", "run"]


@pytest.mark.parametrize(
    "name",
    ["config.yaml", "checkpoints", "checkpoints/best.ckpt", "export", "predictions/a.parquet"],
)
def test_no_link_leads_out_of_a_run(name, write_run, tmp_path):
    run = write_run({"loss": {"_target_": "rmexp.losses.Contrastive"}})
    outside = tmp_path / "outside"
    if (run / name).exists():
        (run / name).rename(outside)
    else:
        outside.mkdir()
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to("../" * name.count("/") + "../outside")
    with pytest.raises(UserError, match=re.escape(f"{run / name} is a link to {outside}")):
        saved_config(run, Trust())


def test_links_within_a_run_and_into_the_cache_of_the_hub_are_followed(write_run, tmp_path):
    run = write_run({"seed": 3})
    (run / "other").symlink_to("result.json")
    hub = tmp_path / "models--x" / "snapshots"
    hub.mkdir(parents=True)
    (hub.parent / "blobs").mkdir()
    (run / "config.yaml").rename(hub.parent / "blobs" / "1234")
    run.rename(hub / "abcd")
    (hub / "abcd" / "config.yaml").symlink_to("../../blobs/1234")
    assert saved_config(hub / "abcd", Trust()).seed == 3


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: &a [1]\nb: [*a, *a]", "aliases"),
        ("a: &a [*a]", "aliases"),
        ("{a: " * 60 + "1" + "}" * 60, "deep nesting"),
        ("a: [", "cannot be read"),
        ("- 1", "is not the configuration"),
        ("a: !!python/object/apply:os.system ['x']", "cannot be read"),
    ],
)
def test_a_configuration_is_plain_yaml(text, why, write_run):
    run = write_run({})
    (run / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=why):
        saved_config(run, Trust())


@pytest.mark.slow
def test_a_class_of_the_users_own_is_named_again(write_run, tmp_path, monkeypatch):
    """By `trust`, or in its own place; the keys are those of the run, not of the default option."""
    (tmp_path / "mine.py").write_text(
        "from rmexp.losses import BradleyTerry\n"
        "class Own(BradleyTerry):\n    def __init__(self, own: int):\n        ...\n"
        "class Rows:\n    def __init__(self, column: str):\n        ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = OmegaConf.to_container(without_hydra(compose_config(["model=tiny"])), resolve=True)
    config["loss"] = {"_target_": "mine.Own", "own": 3}
    config["data"]["format"] = {"_target_": "mine.Rows", "column": "text"}
    run = write_run(config)
    (run / "environment.json").write_text("{}")
    words = ["task=evaluate", f"checkpoint={run}", "logger=none"]
    for more in (
        ["trust=[mine.Own,mine.Rows]"],
        ["trust=mine.Own", "data.format={_target_: mine.Rows}"],
        ["loss._target_=mine.Own", "data.format={_target_: mine.Rows}"],
    ):
        preflight([*words, *more], False, None)
        composed = without_hydra(compose_config([*words, *more, "cache=here"]))
        settled, _ = inherit_config(composed, [*words, *more], own_rows=True)
        assert (settled.data.cache, settled.data.format.column) == ("here", "text")
    with pytest.raises(UserError, match=re.escape("data.format._target_=mine.Rows is no part")):
        preflight([*words, "trust=mine.Own"], False, None)
    with pytest.raises(UserError, match=r"There is no key loss\.margin"):
        preflight([*words, "trust=[mine.Own,mine.Rows]", "loss.margin=0.5"], False, None)

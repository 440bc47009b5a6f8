"""A grid's cells are composed once for each choice of groups, and come out as Hydra makes them."""

import pytest
from omegaconf import OmegaConf

from rmexp.config.compose import compose_config, compose_raw
from rmexp.config.grid import Composer
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


def outcome(compose, words):
    """What comes out, or how it is refused."""
    try:
        return compose(words), None
    except Exception as error:
        return None, (type(error), str(error))


@pytest.fixture(autouse=True, scope="module")
def registered():
    register()


@pytest.mark.parametrize("last", [(), ("hydra.job.config.override_dirname.exclude_keys=[seed]",)])
def test_cells_are_as_if_composed_alone(last):
    composer = Composer(compose_raw)
    for cell in (*CELLS, *CELLS):
        words = [*COMMON, *cell, *last]
        alone, refused = outcome(compose_raw, words)
        if refused is not None:
            assert outcome(composer, words)[1] == refused
            continue
        found = composer(words)
        assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(alone)  # `now` unresolved
        assert OmegaConf.is_struct(found)
        assert not OmegaConf.is_readonly(found.hydra)


def test_the_work_is_shared_and_what_comes_out_is_not():
    asked = []

    def compose(words):
        asked.append(list(words))
        return compose_raw(words)

    composer = Composer(compose)
    for margin in (0.5, 1.0):
        for seed in (0, 1):
            found = composer(["loss=contrastive", f"loss.margin={margin}", f"seed={seed}"])
            assert (found.loss.margin, found.seed) == (margin, seed)
            found.loss.margin = 7.0
    assert asked == [["loss=contrastive"]]


@pytest.mark.parametrize("word", ["seed=x", "loss.margn=1", "data.pth=x", "loss=contrastve"])
def test_mistakes_are_said_as_without_it(word):
    sentences = []
    for by in (compose_raw, Composer(compose_raw)):
        with pytest.raises(UserError) as raised:
            compose_config([*COMMON, word, "seed=1"], by=by)
        sentences.append(str(raised.value))
    assert sentences[0] == sentences[1]

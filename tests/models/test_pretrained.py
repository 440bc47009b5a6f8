"""What a checkpoint's files are: which weights a seed draws, other heads, adapters, refusals."""

import json
import shlex
import shutil
import warnings

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from rmexp.core.errors import UserError
from rmexp.models.reward_model import model_facts
from tests.conftest import SHORT_DEMO
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer
from tests.models.test_families import TOKENIZER


def test_a_pooler_or_new_embeddings_are_drawn_by_the_seed_too(tmp_path):
    config = transformers.BertConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    from_conf("model/tiny").load_model(tiny_tokenizer(), 0).model.save_pretrained(
        tmp_path / "llama"
    )
    grown = tiny_tokenizer()
    grown.add_tokens(["<new>"])
    with pytest.warns(
        UserWarning, match=r"Weights that the checkpoint lacks are initialised randomly: bert.pool"
    ):
        bert = from_conf("model/hf", path=str(tmp_path / "bert")).load_model(TOKENIZER, 0)
    llama = from_conf("model/hf", path=str(tmp_path / "llama")).load_model(grown, 0)
    for model in (bert, llama):
        assert not model_facts(model).only_head_drawn


def test_a_checkpoint_without_a_head_draws_the_head_alone(tmp_path):
    model = from_conf("model/tiny").load_model(tiny_tokenizer(), 0)
    model.model.save_pretrained(tmp_path)
    loaded = from_conf("model/hf", path=str(tmp_path)).load_model(tiny_tokenizer(), 0)
    assert model_facts(loaded).fresh_head
    assert model_facts(loaded).only_head_drawn


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A directory with the tiny decoder, without a head, and its tokenizer."""
    folder = tmp_path_factory.mktemp("llama")
    from_conf("model/tiny").load_model(tiny_tokenizer(), 0).model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def changed(llama, folder, weights=(), **config):
    """A copy of the model with more weights, and other values in its configuration."""
    shutil.copytree(llama, folder)
    file, settings = folder / "model.safetensors", json.loads((folder / "config.json").read_bytes())
    save_file(load_file(file) | dict(weights), file, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(settings | config), "utf-8")
    return from_conf("model/hf", path=str(folder))


@pytest.mark.parametrize("name", ["value_head", "v_head.summary", "classifier", "reward_head.0"])
def test_a_trained_head_of_another_name_is_used_and_said(llama, tmp_path, name):
    weight = torch.arange(32.0)[None]
    weights = {f"{name}.weight": weight, f"{name}.bias": torch.tensor([0.25])}
    source = changed(llama, tmp_path / "m", weights)
    with pytest.warns(UserWarning, match=rf"read from {name}.weight.*; its bias 0.25, which"):
        model = source.load_model(tiny_tokenizer(), 0)
    assert torch.equal(model.score.weight, weight)
    assert not model_facts(model).fresh_head


def test_a_head_beside_the_weights_is_used(llama, tmp_path):
    source = changed(llama, tmp_path / "m")
    save_file({"v_head.summary.weight": torch.ones(1, 32)}, tmp_path / "m/value_head.safetensors")
    with pytest.warns(UserWarning, match="read from v_head.summary.weight"):
        model = source.load_model(tiny_tokenizer(), 0)
    assert model.score.weight.sum() == 32


@pytest.mark.parametrize(
    ("weights", "names"),
    [
        ({"own.0.weight": (32, 32), "own.2.weight": (1, 32)}, "own.0.weight, own.2.weight"),
        ({"a.weight": (1, 32), "b.weight": (1, 32)}, "a.weight, b.weight"),
        ({"score.weight": (1, 32), "score.bias": (1,)}, "score.bias"),
    ],
)
def test_weights_that_are_not_used_are_named(llama, tmp_path, weights, names):
    tensors = {name: torch.zeros(shape) for name, shape in weights.items()}
    source = changed(llama, tmp_path / "m", tensors | {"lm_head.weight": torch.zeros(9, 32)})
    with pytest.warns(UserWarning, match=rf"weights of the checkpoint are not used: {names}"):
        model = source.load_model(tiny_tokenizer(), 0)
    assert model_facts(model).fresh_head == ("score.weight" not in weights)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (
            {"score.weight": (2, 32)},
            r"several labels \(score.weight: 2 outputs\).* two labels into",
        ),
        ({"v_head.0.weight": (32, 32), "v_head.2.weight": (1, 32)}, r"\(v_head.0.weight, v_h"),
        ({"value_head.weight": (3, 32)}, r"is not one linear layer with one output \(value_h"),
    ],
)
def test_heads_with_other_outputs_are_refused_before_loading(llama, tmp_path, weights, sentence):
    tensors = {name: torch.zeros(shape) for name, shape in weights.items()}
    with pytest.raises(UserError, match=sentence):
        changed(llama, tmp_path / "m", tensors).check()


@pytest.mark.slow
def test_a_reward_model_is_trained_further_from_its_own_head(llama, tmp_path, rmexp):
    weight = torch.linspace(-1, 1, 32)[None]
    changed(llama, tmp_path / "m", {"score.weight": weight})
    rmexp(
        "model=hf", f"model.path={tmp_path / 'm'}", SHORT_DEMO, "data.limit=60", "logger=none",
        "tune=head", "optim.head_lr=1e-4", "trainer.max_epochs=1",
    )  # fmt: skip
    (run,) = rmexp.runs()
    trained = load_file(run / "export" / "model.safetensors")["score.weight"].float()
    moved = (trained - weight).abs().max()
    assert 0 < moved < 0.01, "the head that was loaded trains on"


def test_quantised_weights_are_refused_before_training(llama, tmp_path):
    source = changed(llama, tmp_path / "m", quantization_config={"quant_method": "awq", "bits": 4})
    with pytest.raises(UserError, match=r"quantised \(awq\): .*Take the checkpoint that it was ma"):
        source.check()
    scaled = {"layers.0.mlp.up_proj.weight_scale_inv": torch.ones(1)}
    with pytest.raises(UserError, match=r"quantised .*without a quantization_config"):
        changed(llama, tmp_path / "n", scaled).load_model(tiny_tokenizer(), 0)


def test_missing_weights_are_named(llama, tmp_path):
    source = changed(llama, tmp_path / "m", num_hidden_layers=3)
    with pytest.raises(UserError, match=r"lacks 9 weights of the model: model.layers.2.input_lay"):
        source.load_model(tiny_tokenizer(), 0)


def test_folders_without_a_model_or_tokenizer_name_the_fix(llama, tmp_path):
    def refusal(folder):
        source = from_conf("model/hf", path=str(folder))
        with pytest.raises(UserError) as caught:
            source.load_tokenizer()
        return str(caught.value)

    shutil.copytree(llama, tmp_path / "run" / "export")
    assert "did you mean model.path=" + str(tmp_path / "run/export") in refusal(tmp_path / "run")
    (tmp_path / "run/export/model.safetensors").rename(tmp_path / "run/export/pytorch_model.bin")
    assert "has pickled weights (pytorch_model.bin)" in refusal(tmp_path / "run/export")
    (tmp_path / "bare").mkdir()
    shutil.copy(llama / "config.json", tmp_path / "bare")
    assert "does not give a tokenizer" in refusal(tmp_path / "bare")
    assert "Copy tokenizer.json" in refusal(tmp_path / "bare")
    changed(llama, tmp_path / "code", model_type="own", auto_map={"AutoConfig": "c.Config"})
    assert "add model.trust_remote_code=true" in refusal(tmp_path / "code")


def adapter(llama, folder, model=None, **settings):
    """An adapter over the model in `llama`, as peft saves it; its weights are random."""
    options = {"r": 2, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    base = model or transformers.AutoModelForSequenceClassification.from_pretrained(
        llama, num_labels=1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        adapted = peft.get_peft_model(base, peft.LoraConfig(**(options | settings)))
    adapted.save_pretrained(folder)
    return adapted


def test_an_adapter_of_a_classifier_is_opened_over_its_base(llama, tmp_path):
    adapted = adapter(llama, tmp_path / "m", task_type="SEQ_CLS").eval()
    source = from_conf("model/hf", path=str(tmp_path / "m"))
    source.check()
    model = source.load_model(source.load_tokenizer(), 7).eval()
    assert not model_facts(model).fresh_head
    tokens = torch.arange(3, 9)[None]
    with torch.no_grad():
        expected = adapted.base_model.model.model(tokens).last_hidden_state
        torch.testing.assert_close(model.model(tokens).last_hidden_state, expected)
        weight = adapted.base_model.model.score.modules_to_save["default"].weight
    assert torch.equal(model.score.weight, weight)
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_an_adapter_of_a_language_model_draws_a_head(llama, tmp_path):
    lm = transformers.AutoModelForCausalLM.from_pretrained(llama)
    adapter(llama, tmp_path / "m", lm, task_type="CAUSAL_LM")
    model = from_conf("model/hf", path=str(tmp_path / "m")).load_model(tiny_tokenizer(), 0)
    assert model_facts(model).fresh_head
    assert model_facts(model).only_head_drawn
    shutil.copytree(tmp_path / "m", tmp_path / "n")
    settings = tmp_path / "n" / "adapter_config.json"
    for base in ("/nowhere/base", ""):
        content = json.loads(settings.read_bytes()) | {"base_model_name_or_path": base}
        settings.write_text(json.dumps(content), "utf-8")
        with pytest.raises(UserError, match=f"adapter whose base model '{base}' is not found: set"):
            from_conf("model/hf", path=str(tmp_path / "n")).check()


def test_pickled_weights_of_an_adapter_are_refused_with_what_converts_them(
    llama, tmp_path, monkeypatch
):
    adapter(llama, tmp_path, task_type="SEQ_CLS")
    source = from_conf("model/hf", path=str(tmp_path))
    weights = load_file(tmp_path / "adapter_model.safetensors")
    torch.save(weights, tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"pickled weights \(adapter_model.bin\)") as caught:
        source.check()
    python, option, code = shlex.split(str(caught.value).partition("in its directory, ")[2])
    assert (python, option) == ("python", "-c")
    monkeypatch.chdir(tmp_path)
    exec(code.removesuffix("."), {})
    assert load_file("adapter_model.safetensors").keys() == weights.keys()
    source.check()
    for file in tmp_path.glob("adapter_model.*"):
        file.unlink()
    with pytest.raises(UserError, match="an adapter without its weights: download"):
        from_conf("model/hf", path=str(tmp_path)).check()

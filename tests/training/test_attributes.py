"""head=attributes: runs from rows to the export, on the command line."""

import json
import random

import numpy as np
import pyarrow.parquet
import pytest
from fastapi.testclient import TestClient
from safetensors.torch import load_file

from rmexp import load
from rmexp.serve.app import create_app
from tests.conftest import result
from tests.helpers.servers import make_service

WORDS = (
    *("model=tiny", "logger=none", "data=jsonl", "data.val_share=0.25", "data.test_share=0.25"),
    *(
        "tune=head",
        "head=attributes",
        "trainer.max_epochs=5",
        "trainer.precision=32-true",
        "optim.head_lr=1e-2",
    ),
)


def rows(count=60):
    """Pairs rated in two attributes, of which the longer response is preferred."""
    rng, found = random.Random(0), []
    words = ("red", "blue", "tall", "small", "fast", "slow", "warm", "warm")
    for k in range(count):
        texts = [" ".join(rng.choices(words, k=rng.randint(3, 9))) for _ in range(2)]
        texts.sort(key=lambda text: -len(text.split()))
        ratings = {
            "warmth": [text.count("warm") for text in texts],
            "length": [None if k % 5 == 0 else len(texts[0].split()), len(texts[1].split())],
        }
        pair = {"prompt": f"Describe {k}.", "chosen": f"{texts[0]}.", "rejected": texts[1]}
        found.append({**pair, "ratings": ratings})
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache):
    from tests.conftest import CommandLine

    folder = tmp_path_factory.mktemp("attributes")
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    rmexp = CommandLine(folder, cache, reports=True)
    done = rmexp(*WORDS, f"data.path={path}", "loss=regression", "head.weights=learned")
    return rmexp, done, rmexp.runs()[0]


@pytest.mark.slow
def test_a_run_reports_each_attribute_and_the_learnt_weights(trained):
    _, done, run = trained
    facts, metrics = result(run)["attributes"], result(run)["metrics"]
    assert facts["learnt"]
    assert list(facts["weights"]) == ["warmth", "length"]
    for weight, low, high in facts["weights"].values():
        assert 0 <= low <= high
        assert weight >= 0
    assert "weights learnt on val" in done.stdout
    for name in facts["weights"]:
        for metric in ("accuracy", "spearman", "length_r2", "rating_rmse"):
            assert f"test/attributes/{name}/{metric}" in metrics
    assert facts["weights"]["length"][0] > 0
    assert metrics["test/attributes/length/spearman"] > 0.3
    assert np.shape(facts["correlations"]["ratings"]) == (2, 2)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Attributes" in page
    assert "warmth" in page


@pytest.mark.slow
def test_the_export_is_one_head_and_the_outputs_are_beside_it(trained):
    _, _, run = trained
    stored = load_file(run / "export/heads/heads.safetensors")
    weights = [weight for weight, *_ in result(run)["attributes"]["weights"].values()]
    np.testing.assert_allclose(stored["combine"].numpy(), weights, rtol=1e-6)
    single = load_file(run / "export/model.safetensors")["score.weight"]
    np.testing.assert_allclose(single, stored["combine"] @ stored["weight"][None], atol=1e-5)


@pytest.mark.slow
def test_a_checkpoint_has_the_learnt_weights(trained, tmp_path):
    rmexp, _, run = trained
    rmexp("task=evaluate", f"checkpoint={run}", "name=again")
    again = next(one for one in rmexp.runs() if one.name.endswith("again"))
    one, other = result(run)["metrics"], result(again)["metrics"]
    assert {"test/loss", "test/attributes/length/rating_rmse"} < one.keys()
    for name in (name for name in one if name.startswith("test/")):
        assert other[name] == pytest.approx(one[name], abs=1e-5), name


@pytest.mark.slow
def test_rows_without_the_attributes_are_evaluated_without_the_loss(trained, write_rows):
    rmexp, _, run = trained
    path = write_rows(
        [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows(6)]
    )
    rmexp("task=evaluate", "data=jsonl", f"data.path={path}", f"checkpoint={run}", "logger=none",
          "task.probes=false", "name=bare")  # fmt: skip
    bare = result(next(one for one in rmexp.runs() if one.name.endswith("bare")))
    assert "The data has no ratings of warmth, length: the loss is left out." in bare["fallbacks"]
    assert "all/accuracy" in bare["metrics"]


@pytest.mark.slow
def test_named_values_stand_beside_the_reward(trained, write_rows, tmp_path):
    """By Python, in files and over HTTP: in the unit of the ratings, with loss=regression."""
    rmexp, _, run = trained
    model, texts = load(run), ["warm and red", "blue", "a tall red tree"]
    details = model.details("Describe it.", texts)
    assert details.rewards == pytest.approx(model.score("Describe it.", texts), abs=1e-5)
    assert details.outputs == model.outputs("Describe it.", texts)
    lines = json.loads((run / "calibration.json").read_text())["outputs"]
    found = result(run)["attributes"]["weights"]
    parts = [
        found[name][0] * (np.array(values) - lines[name][0]) / lines[name][1]
        for name, values in details.outputs.items()
    ]
    assert list(details.outputs) == ["warmth", "length"]
    assert details.rewards == pytest.approx(np.sum(parts, axis=0), abs=1e-4)

    path = write_rows([{"prompt": "Describe it.", "responses": texts}])
    for kind, read in (("jsonl", read_lines), ("parquet", read_parquet)):
        out = tmp_path / f"rewards.{kind}"
        rmexp("logger=none", "task=score", f"checkpoint={run}", f"data.path={path}", f"out={out}")
        for n, row in enumerate(read(out)):
            assert row["reward"] == pytest.approx(details.rewards[n], abs=1e-4)
            wanted = {name: values[n] for name, values in details.outputs.items()}
            assert row["outputs"] == pytest.approx(wanted, abs=1e-4)

    service = make_service(run)
    client = TestClient(create_app(service, None))
    answer = client.post("/reward", json={"prompt": "Describe it.", "responses": texts}).json()
    for name, values in details.outputs.items():
        assert answer["outputs"][name] == pytest.approx(values, abs=1e-4)
    assert client.get("/v1/models").json()["data"][0]["outputs"] == ["warmth", "length"]
    service.close()


def read_lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def read_parquet(file):
    return pyarrow.parquet.read_table(file).to_pylist()


@pytest.mark.slow
def test_merged_runs_learn_the_weights_anew(rmexp, write_rows):
    path = write_rows(rows(40))
    few = ("trainer.max_epochs=2", "trainer.validations=1", "loss=ordinal")
    words = (*WORDS, *few, f"data.path={path}")
    rmexp("-m", *words, "head.weights=learned", "seed=0,1", "hydra.sweep.dir=sweep")
    rmexp("task=merge", "runs=sweep", "logger=none", "hydra.run.dir=merged")
    merged = rmexp.folder / "merged"
    facts = result(merged)
    assert facts["attributes"]["learnt"]
    assert facts["metrics"]["test/loss"] > 0
    weights = [weight for weight, *_ in facts["attributes"]["weights"].values()]
    stored = load_file(merged / "export/heads/heads.safetensors")
    np.testing.assert_allclose(stored["combine"].numpy(), weights, rtol=1e-6)
    job = rmexp.folder / "sweep" / "0-seed-0"
    record = json.loads((job / "head.json").read_text())
    (job / "head.json").write_text(json.dumps(record | {"names": ["warmth", "depth"]}))
    refused = rmexp("task=merge", "runs=sweep", "logger=none", check=False)
    assert "its attributes are warmth, length, not warmth, depth" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["bradley_terry", "ordinal"])
def test_other_losses_train_each_attribute(rmexp, write_rows, loss):
    words = ("head.weights={length: 1, warmth: -0.5}", "trainer.keep=weights")
    rmexp(*WORDS, f"data.path={write_rows(rows())}", f"loss={loss}", *words)
    (run,) = rmexp.runs()
    assert result(run)["attributes"]["weights"] == {
        "warmth": [-0.5, None, None], "length": [1.0, None, None],
    }  # fmt: skip
    assert result(run)["metrics"]["test/attributes/length/accuracy"] > 0.5
    texts = ("Q", ["warm", "red red red"])
    (run / "export").rename(run / "aside")  # the checkpoint in place of the export
    first, second = load(run / "aside").score(*texts), load(run).score(*texts)
    np.testing.assert_allclose(first, second, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("head.weights={warmth: 1, depth: 2}",), "head.weights names depth; the attributes of "
         "data=jsonl are warmth, length."),
        (("head.weights=all",), "head.weights=all: should be a mapping, or learned, or null."),
        (("loss=soft_bradley_terry",), "loss=soft_bradley_terry reads votes,"),
        (("data.exclude=labels.jsonl",), "data.exclude: labels of pairs, and head=attributes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_sentence(rmexp, write_rows, words, sentence):
    (rmexp.folder / "labels.jsonl").write_text('{"id": "r1", "pair": [0, 1]}\n')
    done = rmexp(
        *WORDS, "loss=regression", f"data.path={write_rows(rows(20))}", *words, check=False
    )
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_rows_without_attributes_are_refused(rmexp):
    done = rmexp("model=tiny", "logger=none", "head=attributes", check=False)
    assert done.returncode == 1
    assert "head=attributes needs ratings of attributes, and data=demo has none" in done.stderr

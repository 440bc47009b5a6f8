"""The model card: metadata that the hub reads, and what the run measured."""

import huggingface_hub

from rmexp.inference.model_card import ExportFacts, card_metadata, write_card
from rmexp.models.provenance import Provenance

METRICS = {
    "test/accuracy": 0.75,
    "test/accuracy_low": 0.7,
    "test/accuracy_high": 0.8,
    "test/pairs": 120.0,
}
FACTS = ExportFacts(
    "grid: 1", "base", "demo (x)", "contrastive", "f00d", METRICS,
    warnings=["test: Length explains 40% of the reward's variance."],
    provenance=Provenance("owner/base", "apache-2.0"),
    datasets=["owner/pairs"],
    language=["en", "zh"],
)  # fmt: skip


def test_the_front_matter_is_that_of_the_hub_and_has_the_interval(tmp_path):
    write_card(FACTS, None, tmp_path / "README.md")
    data = huggingface_hub.ModelCard.load(tmp_path / "README.md").data
    assert (data.base_model, data.license) == ("owner/base", "apache-2.0")
    assert (data.datasets, data.language) == (["owner/pairs"], ["en", "zh"])
    assert data.model_name == "grid: 1"
    (accuracy,) = (one for one in data.eval_results if one.metric_type == "accuracy")
    assert (accuracy.metric_value, accuracy.dataset_type, accuracy.dataset_split) == (
        0.75,
        "owner/pairs",
        "test",
    )
    assert accuracy.metric_args == {"confidence_level": 0.95, "confidence_interval": [0.7, 0.8]}


def test_the_text_has_metrics_and_warnings(tmp_path):
    write_card(FACTS, None, tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    assert "| test/accuracy | 0.7500 [0.700, 0.800] |" in text
    assert "## Warnings\n- test: Length explains 40% of the reward's variance.\n" in text


def test_what_is_unknown_is_left_out(tmp_path):
    known = card_metadata(ExportFacts("m", "b", "d", "l", "f", {})).to_dict()
    assert set(known) == {"library_name", "pipeline_tag", "tags"}

"""What is known of a base model, and nothing more."""

import pytest

from rmexp.models.provenance import Provenance, provenance_of
from tests.helpers.options import from_conf

CARD = """---
base_model: Qwen/Qwen3-0.6B-Base
license: other
license_name: qwen
license_link: https://example.org/license
---
# A model
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    return tmp_path


def test_a_directory_has_what_its_card_says(folder):
    assert provenance_of(str(folder), None, None) == Provenance(
        "Qwen/Qwen3-0.6B-Base", "other", "qwen", "https://example.org/license"
    )


def test_the_user_counts_before_the_card(folder):
    given = {"base_model": "me/mine", "license": "mit"}
    assert provenance_of(str(folder), None, given) == Provenance("me/mine", "mit", None, None)
    assert provenance_of(str(folder), None, {"base_model": None, "license": None}).license == (
        "other"
    )


def test_a_snapshot_of_the_hub_names_its_repository(tmp_path):
    home = tmp_path / "models--owner--some-name" / "snapshots" / "0123"
    home.mkdir(parents=True)
    assert provenance_of(str(home), None, None) == Provenance("owner/some-name")


@pytest.mark.parametrize(
    "text", ["", "# no front matter", "---\n[1\n---\n", "---\n- 1\n---\n", "---\na: [\n---\n"]
)
def test_a_card_that_says_nothing_gives_nothing(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert provenance_of(str(tmp_path), None, None) == Provenance()


def test_a_merge_of_several_models_has_no_single_base(tmp_path):
    (tmp_path / "README.md").write_text("---\nbase_model: [a/b, c/d]\nlicense: [mit]\n---\n")
    assert provenance_of(str(tmp_path), None, None) == Provenance(None, "mit")


def test_a_hub_id_is_known_without_the_network():
    assert provenance_of("owner/never-downloaded", None, None) == Provenance(
        "owner/never-downloaded"
    )


def test_the_default_model_is_known_and_a_random_one_is_not():
    assert from_conf("model/smollm2").provenance() == Provenance(
        "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"
    )
    assert from_conf("model/tiny").provenance() == Provenance()

"""A metric is one entry of the registry: everything else follows from it."""

import pytest

from rmexp.analysis.compare.paired_runs import ScoredRun
from rmexp.analysis.compare.runs import Run
from rmexp.analysis.report.eval_section import Shown, eval_section
from rmexp.core.errors import UserError
from rmexp.evaluation import metrics
from rmexp.evaluation.metric_values import compute_metrics, slow_metrics
from rmexp.evaluation.metrics import METRICS, Metric, lower_is_better, shown_in
from rmexp.runner.closing_table import closing_table
from rmexp.tracking.wandb_logger import summary_of
from tests.evaluation.test_metrics import scored
from tests.helpers.options import from_conf

INDECISIVE = Metric(
    "indecisive",
    "share of small gaps",
    lambda s: s.share(s.gaps_P < 1),
    direction="min",
    shown=("table", "card", "compare", "wandb"),
    monitor="yes",
    per_subset="always",
    itemwise=lambda gaps_P, _: (gaps_P < 1).astype(float),
)


def test_names_and_labels_are_unique():
    for names in ([m.name for m in METRICS], [m.label for m in METRICS]):
        assert len(set(names)) == len(names)


def test_metrics_per_subset_at_each_validation_are_itemwise():
    assert all(m.itemwise for m in METRICS if m.per_subset == "always")


def test_a_metric_is_added_by_one_entry(monkeypatch, tmp_path):
    """It is computed, monitored, compared pair by pair and shown everywhere."""
    with pytest.raises(UserError, match="no such metric"):
        from_conf("trainer/default", monitor="val/indecisive")
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, INDECISIVE))
    from_conf("trainer/default", monitor="val/indecisive")
    from_conf("trainer/default", monitor="val/chat/indecisive")
    assert lower_is_better("val/chat/indecisive")
    assert summary_of("val/indecisive") == "min"

    s = scored([3.0, 1.0, 1.5, 1.0], [(0, 1), (2, 3)], rows=[0, 0, 1, 1], subsets=["a", "b"])
    found = {f"test/{name}": value for name, value in compute_metrics(s).items()}
    assert (found["test/indecisive"], found["test/a/indecisive"]) == (0.5, 0)
    assert slow_metrics(s)["b/indecisive"] == 1
    cells = {x for c in closing_table(found).columns for x in c.cells}
    assert {"indecisive", "0.5000 [0.000, 1.000]"} <= cells
    rows = [{"id": name, "texts": ["yes", "no"]} for name in "ab"]
    heads = eval_section(Shown("test", s, rows), found)["heads"]
    head = {"label": "share of small gaps", "value": "0.5000", "note": "95%: [0.000, 1.000]"}
    assert head in heads

    run = ScoredRun(Run("a", tmp_path), s.gaps_P, 1.0, {"indecisive": 0.5})
    assert run.items("indecisive").tolist() == [0, 1]
    assert INDECISIVE in shown_in("compare")
    assert INDECISIVE in shown_in("wandb")

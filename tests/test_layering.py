"""A module imports only modules listed above it: the order in which the package is read."""

import ast

from tests.conftest import ROOT

ORDER = [
    "rmexp",
    "rmexp.errors",
    "rmexp.config",
    "rmexp.peers",
    "rmexp.peers.settings",
    "rmexp.peers.reasons",
    "rmexp.peers.rows",
    "rmexp.peers.lora",
    "rmexp.peers.training",
    "rmexp.peers.trl",
    "rmexp.peers.axolotl",
    "rmexp.convert",
    "rmexp.sweep",
    "rmexp.sweep.state",
    "rmexp.sweep.composing",
    "rmexp.sweep.fingerprints",
    "rmexp.sweep.plan",
    "rmexp.comparisons",
    "rmexp.style",
    "rmexp.rewrites",
    "rmexp.sources",
    "rmexp.formats.values",
    "rmexp.formats.parts",
    "rmexp.formats.dialogues",
    "rmexp.formats.preference",
    "rmexp.formats.hh",
    "rmexp.formats.candidates",
    "rmexp.formats.single",
    "rmexp.formats.voted",
    "rmexp.formats.strength",
    "rmexp.formats.all_pairs",
    "rmexp.formats.good_bad",
    "rmexp.formats.stepwise",
    "rmexp.formats.swift",
    "rmexp.formats.nectar",
    "rmexp.formats.ultrafeedback",
    "rmexp.formats.oasst",
    "rmexp.formats.only",
    "rmexp.formats.auto",
    "rmexp.formats.suites",
    "rmexp.formats.renamed",
    "rmexp.formats.grouped",
    "rmexp.formats",
    "rmexp.reading",
    "rmexp.splits",
    "rmexp.baking",
    "rmexp.rendering",
    "rmexp.templates",
    "rmexp.trees",
    "rmexp.tokenised",
    "rmexp.attention",
    "rmexp.features",
    "rmexp.batches",
    "rmexp.steps",
    "rmexp.model",
    "rmexp.tuning",
    "rmexp.loading",
    "rmexp.layout",
    "rmexp.losses.base",
    "rmexp.losses.pairs",
    "rmexp.losses.lists",
    "rmexp.losses.ratings",
    "rmexp.losses.mix",
    "rmexp.losses",
    "rmexp.contract",
    "rmexp.optim",
    "rmexp.bootstrap",
    "rmexp.statistics",
    "rmexp.significance",
    "rmexp.replicates",
    "rmexp.reliability",
    "rmexp.calibration",
    "rmexp.best_of",
    "rmexp.ranking",
    "rmexp.probes",
    "rmexp.verdicts",
    "rmexp.suites.base",
    "rmexp.suites.rewardbench",
    "rmexp.suites.rewardbench2",
    "rmexp.suites.rm_bench",
    "rmexp.suites.rmb",
    "rmexp.suites",
    "rmexp.reward_files",
    "rmexp.evaluation",
    "rmexp.scored",
    "rmexp.metrics",
    "rmexp.sampling",
    "rmexp.columns",
    "rmexp.trainable",
    "rmexp.data",
    "rmexp.mixture",
    "rmexp.suite_data",
    "rmexp.given",
    "rmexp.inspection",
    "rmexp.inspection.agreement",
    "rmexp.inspection.prompts",
    "rmexp.inspection.leakage",
    "rmexp.inspection.rows",
    "rmexp.inspection.numbers",
    "rmexp.inspection.repeats",
    "rmexp.inspection.examples",
    "rmexp.inspection.facts",
    "rmexp.divergence",
    "rmexp.frozen",
    "rmexp.module",
    "rmexp.export",
    "rmexp.predictions",
    "rmexp.tracking",
    "rmexp.wandb_media",
    "rmexp.wandb_mirror",
    "rmexp.workspace",
    "rmexp.progress",
    "rmexp.training",
    "rmexp.heads",
    "rmexp.scoring",
    "rmexp.sensitivity",
    "rmexp.compare",
    "rmexp.compare.runs",
    "rmexp.preflight",
    "rmexp.compare.folds",
    "rmexp.compare.judged",
    "rmexp.compare.settings",
    "rmexp.compare.pairs",
    "rmexp.compare.effects",
    "rmexp.compare.comparison",
    "rmexp.compare.tables",
    "rmexp.report",
    "rmexp.report.plots",
    "rmexp.report.html",
    "rmexp.report.sets",
    "rmexp.report.page",
    "rmexp.report.inspected",
    "rmexp.report.compared",
    "rmexp.tasks",
    "rmexp.tasks.setup",
    "rmexp.tasks.train",
    "rmexp.tasks.heads",
    "rmexp.tasks.evaluate",
    "rmexp.tasks.export",
    "rmexp.tasks.score",
    "rmexp.tasks.inspect",
    "rmexp.tasks.compare",
    "rmexp.tasks.convert",
    "rmexp.tasks.status",
    "rmexp.checkpoint",
    "rmexp.job",
    "rmexp.sweep.estimate",
    "rmexp.sweep.ahead",
    "rmexp.sweep.ending",
    "rmexp.sweep.grouped",
    "rmexp.__main__",
]


def module_name(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "rmexp"
        ):
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                yield deeper if deeper in ORDER else node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "rmexp")


def test_every_module_is_in_the_order_and_imports_only_upwards():
    files = {module_name(f): f for f in sorted((ROOT / "rmexp").rglob("*.py"))}
    assert set(files) == set(ORDER)
    for name, file in files.items():
        for other in imported(file) if name != "rmexp" else ():  # `rmexp.load` imports when called
            assert ORDER.index(other) < ORDER.index(name), (
                f"{name} imports {other}, which stands below it"
            )

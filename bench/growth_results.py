"""RESULTS.md's tables of growth, and speed.png."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from bench.rounds import HOME, table


def merged(rounds: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, float]]]:
    """Growth: the median of each number over the rounds."""
    return {
        part: [
            {key: median(r[part][n][key] for r in rounds) for key in point}
            for n, point in enumerate(points)
        ]
        for part, points in (rounds[-1] if rounds else {}).items()
    }


def growth_tables(growth: dict[str, list[dict[str, float]]], count: int) -> str:
    """How cost grows."""

    def layouts(part: str, better: Callable[[float, float], float]) -> list[list[str]]:
        return [
            [f"{next(iter(p.values())):g}", f"{p['tree']:.3f}", f"{p['padded']:.3f}",
             f"{better(p['tree'], p['padded']):.2f}x"]
            for p in growth[part]
        ]  # fmt: skip

    kept = growth["memory"]
    return "\n".join(
        [
            "## Growth",
            "",
            f"{'One round' if count == 1 else f'Medians of {count} rounds'}. Forward and backward "
            "of the same model; *padded* is rmexp's own padded layout, a stand-in for TRL.",
            "",
            "Length: three quarters of each sequence are shared.",
            "",
            *table(
                "tokens a response, prompt included|seconds a pair, tree|padded|faster by",
                layouts("length", lambda tree, padded: padded / tree),
            ),
            "",
            "Candidates: 192 tokens of prompt, 64 of each response.",
            "",
            *table(
                "candidates|seconds a response, tree|padded|faster by",
                layouts("candidates", lambda tree, padded: padded / tree),
            ),
            "",
            "Pairs a second against what is shared and what would be padded (eight pairs padded to "
            "their longest, nothing shared):",
            "",
            "![Pairs a second against shared-prefix share and padding share](speed.png)",
            "",
            *table(
                "shared-prefix share|pairs/s, tree|padded|faster by",
                layouts("shared", lambda tree, padded: tree / padded),
            ),
            "",
            *table(
                "padding share|pairs/s, tree|padded|faster by",
                layouts("padding", lambda tree, padded: tree / padded),
            ),
            "",
            "Rows: synthetic pairs. Start-up is what a second start does until its rows are split; "
            "memory is that process's after its first step was laid out, and how much of it are "
            "pages of files, which the system takes back when it needs them.",
            "",
            *table(
                "rows|words a row|tokenise, s|start-up from the cache, s|plan an epoch, s"
                "|memory before, MiB|after|of it files",
                [
                    [f"{p['rows']:,.0f}", f"{p['words']:.0f}", f"{p['tokenise_s']:.1f}",
                     f"{p['start_s']:.2f}", f"{p['plan_s']:.3f}", f"{p['before_mib']:.0f}",
                     f"{p['resident_mib']:.0f}", f"{p['of_files_mib']:.0f}"]
                    for p in growth["rows"]
                ],
            ),
            "",
            f"Steps: resident MiB over {kept[-1]['step']:.0f} optimizer steps of a small model on "
            "pairs of up to 1,500 tokens, by the real command line.",
            "",
            *table(
                "step|" + "|".join(f"{p['step']:.0f}" for p in kept),
                [["MiB", *(f"{p['resident']:.0f}" for p in kept)]],
            ),
            "",
        ]
    )  # fmt: skip


def plot(growth: dict[str, list[dict[str, float]]]) -> None:
    """speed.png: pairs a second against shared-prefix share and padding share."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    titles = {
        "shared": ("shared-prefix share of 256 tokens", "What responses share"),
        "padding": ("padding share where pairs are padded to the longest", "What is padded"),
    }
    for panel, (part, (below, title)) in zip(panels, titles.items(), strict=True):
        x = [100 * p["share"] for p in growth[part]]
        for layout, colour, words in (
            ("tree", "#1f6f8b", "rmexp, token trees"),
            ("padded", "#c2571a", "padded rows"),
        ):
            y = [p[layout] for p in growth[part]]
            panel.plot(x, y, "o-", color=colour, linewidth=2, label=words)
        panel.set(title=title, xlabel=f"{below}, %")
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set(ylabel="pairs a second", ylim=(0, None))
    panels[0].legend(frameon=False)
    figure.savefig(HOME / "speed.png", dpi=130)
    pyplot.close(figure)

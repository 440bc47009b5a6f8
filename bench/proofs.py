"""RESULTS.md's tables beside the ratios: goodput, memory, and whether the sides agree."""

from statistics import median

from bench.rounds import Round, spread, table, verdict
from bench.works import SIDES, WORKS

AGREE = 1e-4
"""Largest difference of a fp32 loss over the first 20 steps."""

MFU = {"hh-bf16": (0.30, 0.45), "hh-fp32": (0.55, None)}
"""Floor and aim of goodput MFU."""


def goodput(rounds: dict[str, list[Round]]) -> str:
    """MFU on HH, and memory compared with TRL's."""
    columns = (
        "work|distinct tokens a step|GEMM peak, TFLOP/s (at tokens)|goodput MFU|floor|aim|met?"
    )
    shares, memory = [], []
    for name, (floor, aim) in MFU.items():
        if name not in rounds:
            continue
        found = rounds[name]
        ours = [r["sides"]["rmexp"] for r in found]
        mfu = [side["goodput_mfu"] for side in ours]
        shares.append(
            [
                WORKS[name].title,
                f"{median(t for side in ours for t in side['tokens']):.0f}",
                f"{median(side['gemm_peak_teraflops'] for side in ours):.3f} "
                f"({median(side['packed_tokens'] for side in ours):.0f})",
                spread(mfu, "{:.0%}"),
                f"{floor:.0%}",
                f"{aim:.0%}" if aim else "",
                verdict(median(mfu), floor, aim),
            ]
        )
    for name, work in WORKS.items():
        if name in rounds and "trl" in work.against:
            sides = [r["sides"] for r in rounds[name]]
            ours = median(s["rmexp"]["peak_memory_gib"] for s in sides)
            theirs = median(s["trl"]["peak_memory_gib"] for s in sides)
            by_default = [s["trl-default"]["peak_memory_gib"] for s in sides if "trl-default" in s]
            memory.append(
                [
                    work.title,
                    f"{ours:.2f}",
                    f"{theirs:.2f}",
                    f"{median(by_default):.2f}" if by_default else "",
                    "yes" if ours <= theirs else "no",
                ]
            )
    if not memory:
        return ""
    return "\n".join(
        [
            "## Goodput and memory",
            "",
            "FLOPs: 6 N T + 12 L d K, N weights without embeddings, T distinct tokens, K attended "
            "keys; those weights of the final layer that compute only what the head reads count "
            "for the tokens read. Peak: matmuls of the model's own shapes, forward and both "
            "gradients, measured in rmexp's process right after the timed steps, in the same type.",
            "",
            *(table(columns, shares) if shares else []),
            "",
            "Peak resident memory, GiB, of the whole process:",
            "",
            *table("work|rmexp|TRL, checkpointing off|TRL, its defaults|rmexp not above?", memory),
            "",
        ]
    )


def agreement(rounds: dict[str, list[Round]]) -> str:
    """Losses where both sides take the same pairs in the same order; rewards in scoring."""
    rows = []
    for name, work in WORKS.items():
        for side in work.against if name in rounds else ():
            found = [(r["sides"]["rmexp"], r["sides"][side]) for r in rounds[name]]
            if work.unit == "responses":
                gap = max(theirs["largest_difference"] for _, theirs in found)
                rows.append([work.title, SIDES[side], "rewards", f"{gap:.1e}", ""])
            elif work.same_steps and side != "trl-by-length":
                pairs = [list(zip(a["losses"], b["losses"], strict=True))[:20] for a, b in found]
                gap = max(abs(a - b) for steps in pairs for a, b in steps)
                asked = ("yes" if gap <= AGREE else "no") if "fp32" in name else ""
                steps = f"losses of the first {len(pairs[0])} steps"
                rows.append([work.title, SIDES[side], steps, f"{gap:.1e}", asked])
    if not rows:
        return ""
    columns = f"work|rmexp and|what|largest difference|at most {AGREE:g}? (asked of fp32 losses)"
    return "\n".join(["## Do they compute the same?", "", *table(columns, rows), ""])

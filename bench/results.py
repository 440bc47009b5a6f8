"""rounds.jsonl -> RESULTS.md and speed.png."""

import json
from collections.abc import Iterator, Sequence
from statistics import median

from bench.gpu_results import gpu
from bench.growth_results import growth_tables, merged, plot
from bench.measurement import machine_words
from bench.proofs import MFU, agreement, goodput
from bench.quick_results import quick
from bench.rounds import HOME, Round, newest, ratios, spread, table, verdict
from bench.serving_results import serving
from bench.sweep_results import sweeps
from bench.works import SIDES, WORKS, Work


def write() -> None:
    """RESULTS.md and speed.png, from what rounds.jsonl holds."""
    rounds = {name: found for name in (*WORKS, "growth") if (found := newest(name))}
    if not rounds:
        return
    parts = [head(rounds), speed(rounds), losing(rounds), quick(), goodput(rounds)]
    parts.append(agreement(rounds))
    if "growth" in rounds:
        growth = merged([r["growth"] for r in rounds["growth"]])
        plot(growth)
        parts.append(growth_tables(growth, len(rounds["growth"])))
    parts += [serving(), sweeps(), gpu()]
    (HOME / "RESULTS.md").write_text("\n".join(part for part in parts if part))


def head(rounds: dict[str, list[Round]]) -> str:
    """How the figures were made, on what, and with what."""
    every = [r for found in rounds.values() for r in found]
    machines = {json.dumps(r["machine"]): r["machine"] for r in every}
    versions = {json.dumps(r["versions"]): r["versions"] for r in every}
    commits = dict.fromkeys(str(r["commit"]) for r in sorted(every, key=lambda r: r["date"]))
    shown = map(machine_words, machines.values())
    packages = [", ".join(f"{k} {v}" for k, v in found.items()) for found in versions.values()]
    dates = sorted(r["date"][:10] for r in every)
    return f"""# Speed

Written by `python -m bench` from `rounds.jsonl`; nothing here is typed by hand.

- Machine: {"; ".join(shown)}.
- Versions: {"; ".join(packages)}.
- Measured {dates[0]} to {dates[-1]} at {", ".join(commits)} (+: with changes not committed).
- Model: SmolLM2-135M-Instruct with a fresh reward head, the same weights for all sides.

Training sides are the real `python -m rmexp` and the real `trl.RewardTrainer` on the same pairs a
step in the same order, but where the notes say otherwise: fused AdamW, clip 1, constant rate, no
row shortened or left out. A side is a process of its own; the sides of a round run in turn, in
reverse order every other round. Rates are over the whole of a round after its warm-up; ratios are
taken within a round, and are medians over the rounds, with the smallest and largest. **Rounds x
steps says what a row rests on**: few rounds or steps make it rough, as padding lets single steps
vary threefold.
"""


def speed(rounds: dict[str, list[Round]]) -> str:
    """The table of ratios, and what its rows cannot say."""
    columns = "work|against|rounds x steps|rmexp|other|ratio (min-max)|floor|aim|met?"
    rows = [
        line(work, side, rounds[name])
        for name, work in WORKS.items()
        if name in rounds
        for side in work.against
    ]
    said = (f"- {note}." for note in notes(rounds))
    return "\n".join(["## Ratios", "", *table(columns, rows), "", *said, ""])


def notes(rounds: dict[str, list[Round]]) -> Iterator[str]:
    """What one must know to read the ratios."""
    yield "Rates are judged pairs a second; in scoring responses a second, and a step is 8 pairs"
    if missing := [name for name in (*WORKS, "growth") if name not in rounds]:
        yield f"Not measured yet: {', '.join(missing)}"
    for name, found in rounds.items():
        commits = sorted({str(r["commit"]) for r in found})
        if len(commits) > 1:
            yield f"{name}: its rounds are of the commits {', '.join(commits)}"
    for name in ("hh-bf16", "hh-fp32"):
        if name in rounds:
            off, grouped = (rounds[name][-1]["sides"][s] for s in ("trl", "trl-by-length"))
            yield (
                f"{name}: TRL pushes {off['padding']:.2f} tokens for each real one; grouped by "
                f"length, {grouped['padding']:.2f} of the same pairs, sorted (its own sampler "
                f"over the whole epoch: {grouped['epoch_padding']:.2f})"
            )
    if "ukp" in rounds:
        ours, theirs = (rounds["ukp"][-1]["sides"][s]["pairs"] for s in ("rmexp", "trl"))
        yield (
            f"ukp: a debate side takes TRL minutes, so that it is timed on {theirs} of the "
            f"{ours} pairs, drawn at random in micro-batches of one debate side, "
            f"{WORKS['ukp'].accumulate} to an optimizer step (which hardly comes into its time)"
        )
    if "gsm8k" in rounds:
        yield (
            "gsm8k: TRL trains the right-against-wrong pairs of the same lists, 24 to a step "
            "(8 lists have 27 on average)"
        )


def line(work: Work, side: str, found: Sequence[Round]) -> list[str]:
    """A row of the table of ratios."""
    key = f"{work.unit}_per_second"
    ours, theirs = (median(r["sides"][s][key] for r in found) for s in ("rmexp", side))
    floor, aim = work.against[side]
    middle = median(ratios(work, side, found))
    return [
        work.title,
        SIDES[side],
        f"{len(found)} x {found[0]['steps']}",
        f"{ours:.2f}",
        f"{theirs:.2f}",
        spread(ratios(work, side, found), "{:.2f}x"),
        f"{floor}x",
        f"{aim}x" if aim else "",
        verdict(middle, floor, aim),
    ]


def losing(rounds: dict[str, list[Round]]) -> str:
    """Where rmexp is slower, or below what is asked of it."""
    said = (
        "Where rmexp is slower than the other side or below what is asked of it; and always the "
        "work in which nothing is shared and nothing padded, so that nothing can be gained."
    )
    found = [f"- {case}." for case in cases(rounds)]
    return "\n".join(["## Losing cases", "", said, "", *(found or ["- None so far."]), ""])


def cases(rounds: dict[str, list[Round]]) -> Iterator[str]:
    """The losing cases, one by one."""
    for name, work in WORKS.items():
        for side, (floor, _) in work.against.items() if name in rounds else ():
            ratio = median(ratios(work, side, rounds[name]))
            if ratio < 1 or ratio < floor or name == "uniform":
                yield f"{work.title}, against {SIDES[side]}: {ratio:.2f}x, floor {floor}x"
    for name, (floor, _) in MFU.items():
        sides = [r["sides"] for r in rounds.get(name, ())]
        if sides and (share := median(s["rmexp"]["goodput_mfu"] for s in sides)) < floor:
            yield f"goodput MFU, {WORKS[name].title}: {share:.0%}, floor {floor:.0%}"
    for name in (name for name in WORKS if name in rounds and "trl" in WORKS[name].against):
        sides = [r["sides"] for r in rounds[name]]
        ours, theirs = (median(s[k]["peak_memory_gib"] for s in sides) for k in ("rmexp", "trl"))
        if ours > theirs:
            yield f"peak memory, {WORKS[name].title}: {ours:.1f} GiB, TRL's {theirs:.1f}"
    growth = merged([r["growth"] for r in rounds.get("growth", ())])
    for part, slower in (("length", 1), ("candidates", 1), ("shared", -1), ("padding", -1)):
        for point in growth.get(part, ()):
            what, value = next(iter(point.items()))
            ratio = (point["padded"] / point["tree"]) ** slower
            if ratio < 1:
                yield f"trees beside rmexp's padded rows, {part}, {what} {value:g}: {ratio:.2f}x"

"""Lines of the README and the guides, typed as a newcomer would, on the tiny model."""

import re
import shlex
import subprocess
from collections import Counter

import pytest

from tests.conftest import ROOT, SHORT_DEMO, result

pytestmark = pytest.mark.slow

QUICK = ("model=tiny", "logger=none", "trainer.validations=1")


def section(page, title):
    """The fenced blocks of a page's section, as (language, text)."""
    text = (ROOT / page).read_text()
    body = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"```(\w*)\n(.*?)```", body, re.DOTALL)


def commands(page, title):
    """The lines of a section's bash blocks, without comments."""
    blocks = (text for kind, text in section(page, title) if kind == "bash")
    return [re.sub(r"\s+#.*", "", line) for text in blocks for line in text.splitlines()]


def type_in(rmexp, line, *more):
    """Run a README line: `python -m rmexp` through our entry point, anything else in a shell."""
    if line.startswith("python -m rmexp"):
        return rmexp(*shlex.split(line)[3:], *more)
    return subprocess.run(line, shell=True, check=True, cwd=rmexp.folder)


@pytest.mark.parametrize(
    ("page", "title", "kept"),
    [("README.md", "Your data", 24), ("docs/data.md", "Your own data", 48)],
)
def test_your_own_data(rmexp, page, title, kept):
    blocks = (text for kind, text in section(page, title) if kind == "json")
    rows = [line for text in blocks for line in text.splitlines()]
    varied = [row.replace("2 + 2", f"{n} + {n}") for row in rows for n in range(12)]
    (rmexp.folder / "rows.jsonl").write_text("\n".join(varied))
    *looks, line = commands(page, title)
    for look in looks:
        type_in(rmexp, look, "model=tiny")
    assert f"{kept} comparisons kept" in type_in(rmexp, line, *QUICK).stdout


def test_your_own_template(rmexp):
    for line in commands("docs/templates.md", "Your own template"):
        done = type_in(
            rmexp,
            line,
            *(QUICK if "rmexp" in line else ()),
            *([SHORT_DEMO, "data.limit=30"] if "rmexp" in line else []),
        )
    assert "[system] Be brief.<|im_end|>[user]" in done.stdout
    assert "[user]" not in (rmexp.runs()[0] / "export" / "chat_template.jinja").read_text()


def test_score(rmexp, monkeypatch):
    rmexp(*QUICK, SHORT_DEMO, "data.limit=20")
    rmexp.runs()[0].rename(rmexp.folder / "RUN")
    (rmexp.folder / "rows.jsonl").write_text('{"prompt": "p", "response": "r"}\n')
    (line,) = [line for line in commands("README.md", "Score, serve and export") if "score" in line]
    assert line in (ROOT / "docs/scoring.md").read_text()
    type_in(rmexp, line)
    assert (rmexp.folder / "rewards.jsonl").read_text().startswith('{"id": "row-1", "response": 0')
    (program,) = [text for kind, text in section("docs/scoring.md", "Python") if kind == "python"]
    monkeypatch.chdir(rmexp.folder)
    names = {}
    exec(program.replace("model.score", "rewards = model.score"), names)
    assert len(names["rewards"]) == 2


def test_your_own_loss(rmexp):
    for kind, text in section("docs/losses.md", "Your own loss"):
        if kind == "python":
            name = re.match(r"# file: (\S+)", text)[1]
            (rmexp.folder / name).write_text(text)
            assert sum(bool(line.strip()) for line in text.splitlines()) <= 10
    (line,) = commands("docs/losses.md", "Your own loss")
    type_in(rmexp, line, *QUICK, SHORT_DEMO, "data.limit=30")
    option = rmexp.folder / "my_conf" / "loss" / "mine.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("_target_: my_losses.MyExponential\n")
    rmexp("--config-dir", "my_conf", "loss=mine", *QUICK, SHORT_DEMO, "data.limit=30")
    losses = [result(run)["metrics"]["test/loss"] for run in rmexp.runs()]
    assert losses[0] == losses[1]


def test_sweep(rmexp):
    line, *_, status = commands("README.md", "Sweep")
    done = type_in(rmexp, line, *QUICK, SHORT_DEMO, "data.limit=20")
    assert done.stdout.count("  done    ") == 8
    assert "8 done" in type_in(rmexp, status).stdout


def outline(name, other):
    """A README's sections, as (heading, what a translation has as well).

    Within a section code blocks keep their order; the rest may change places, as sentences do.
    A link to a heading counts as the number of its section.
    """
    text = (ROOT / name).read_text().replace(f"]({other})", "](the other language)")
    head, *rest = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    anchors = ["#" + re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in rest[::2]]
    sections = []
    for title, body in zip(["head", *rest[::2]], [head, *rest[1::2]], strict=True):
        prose, *fenced = re.split(r"^```", body, flags=re.MULTILINE)
        prose = "\n".join([prose, *fenced[1::2]])
        links = re.findall(r"\]\(([^)]+)\)", prose)
        words = re.sub(r"\]\([^)]+\)|`[^`]+`", "", prose)
        kept = {
            "code blocks": fenced[::2],
            "links": Counter(anchors.index(to) if to[0] == "#" else to for to in links),
            "pictures": prose.count("!["),
            "table rows": len(re.findall(r"^\|", prose, re.MULTILINE)),
            "inline code": Counter(" ".join(x.split()) for x in re.findall(r"`([^`]+)`", prose)),
            "numbers": Counter(re.findall(r"\d(?:[\d.,]*\d)?", words)),
        }
        sections.append((title, kept))
    return sections


def test_the_chinese_readme_says_the_same():
    english = outline("README.md", "README.zh-CN.md")
    chinese = outline("README.zh-CN.md", "README.md")
    assert len(english) == len(chinese)
    for (title, ours), (their_title, theirs) in zip(english, chinese, strict=True):
        for what, found in ours.items():
            where = f"README.md {title}, README.zh-CN.md {their_title}"
            assert found == theirs[what], f"{what} differ: {where}"

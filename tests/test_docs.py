"""What the README and the guides name exists: commands, keys, files, modules, links."""

import importlib
import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from rmexp.config.grid import Composer
from rmexp.config.schema import register
from rmexp.config.validate import check_config
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {file.relative_to(ROOT).as_posix(): file.read_text() for file in PAGES}
STAND_INS = {
    "+experiment=mine": "+experiment=axolotl_pairwise",
    "loss=mine": "loss=exponential",
    "loss._target_=my_losses.MyExponential": "loss._target_=rmexp.losses.Exponential",
}
"""Words of commands that name a user's own file -> what is checked in their place."""


def every_command():
    """The words after `-m rmexp` of each command, with the page where it first stands."""
    found = {}
    for page, text in TEXTS.items():
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                _, _, rest = line.partition(" -m rmexp ")
                if rest or line.endswith("-m rmexp"):
                    found.setdefault(tuple(shlex.split(rest, comments=True)), page)
    return [
        pytest.param(list(words), id=f"{page} {' '.join(words)}") for words, page in found.items()
    ]


def last_job(words):
    """The overrides of a command's run, or of the last job of its sweep."""
    overrides = [STAND_INS.get(word, word) for word in words]
    for parsed in OverridesParser.create().parse_overrides(overrides):
        if parsed.is_sweep_override():
            *_, value = parsed.sweep_string_iterator()
            at = overrides.index(parsed.input_line)
            overrides[at] = f"{parsed.input_line.partition('=')[0]}={value}"
    return overrides


COMPOSER, VALID = Composer(), set()


@pytest.mark.parametrize("words", every_command())
def test_every_command_composes_and_its_values_are_in_range(words):
    while words and words[0].startswith("-"):
        flag = words.pop(0)
        if flag in ("--config-dir", "--cfg"):
            words.pop(0)
    register()
    config = COMPOSER(last_job(words))
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    if config.resume is None:
        check_config(config, VALID)


def test_commands_were_found():
    assert len(every_command()) > 50


SESSIONS = {
    command: answer
    for text in TEXTS.values()
    for block in re.findall(r"```\n(\$ .*?)```", text, re.DOTALL)
    for command, answer in re.findall(r"\$ python -m rmexp (.*)\n(rmexp: .*)", block)
}


@pytest.mark.parametrize("command", SESSIONS)
def test_a_wrong_command_is_answered_as_shown(rmexp, command):
    done = rmexp(*shlex.split(command), check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(SESSIONS[command].removesuffix("..."))


def test_answers_were_found():
    assert len(SESSIONS) >= 3


def test_every_path_exists():
    missing = [
        (page, path)
        for page, text in TEXTS.items()
        for path in re.findall(
            r"(?<![\w/.@])(?:rmexp|conf|bench|tests|sweeps|docs)/[\w./-]*\w/?", text
        )
        if not re.search("NAME|OPTION|GROUP", path) and not (ROOT / path).exists()
    ]
    assert missing == []


def exists(name):
    """Can the dotted name be imported?"""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def test_every_dotted_name_exists():
    names = {
        (page, name)
        for page, text in TEXTS.items()
        for name in re.findall(r"(?<![\w/.-])rmexp(?:\.[A-Za-z_]\w*)+", text)
    }
    assert sorted(pair for pair in names if not exists(pair[1])) == []


def anchors(text):
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*TEXTS, "README.zh-CN.md", "CHANGELOG.md"])
def test_every_link_leads_somewhere(page):
    file = ROOT / page
    text = re.sub(r"```.*?```", "", file.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target.read_text()), f"{page}: {link}"


def test_the_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= 170


@pytest.mark.parametrize("page", [page for page in TEXTS if page.startswith("docs/")])
def test_every_guide_opens_with_a_command(page):
    opening = TEXTS[page].split("\n## ")[0]
    assert "```bash\n" in opening


def test_the_architecture_is_under_two_pages_and_names_every_package():
    assert len(TEXTS["docs/architecture.md"].splitlines()) < 120
    assert len(list((ROOT / "rmexp").glob("*/__init__.py"))) > 10
    for package in (ROOT / "rmexp").glob("*/__init__.py"):
        assert f"\n  {package.parent.name}/" in TEXTS["docs/architecture.md"]

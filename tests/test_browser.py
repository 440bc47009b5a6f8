"""report.html in a real browser: it opens, sorts, filters, fits a phone, and asks nobody.

Pictures go into the folder that RMEXP_SCREENSHOTS names, or into the test's own.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import CommandLine, result
from tests.helpers.browser import fits, is_dark, open_chromium
from tests.helpers.run_directories import margin, write_run

pytestmark = pytest.mark.slow

SIZES = {"desktop": (1200, 900), "phone": (390, 844)}
ATTACK = "<script>document.title = 'taken'</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def chromium():
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def pages(chromium, tmp_path):
    """Opens a page in a size and scheme; at the end nothing may have gone wrong in any."""
    opened, wrong = [], []
    pictures = Path(os.environ.get("RMEXP_SCREENSHOTS", tmp_path / "screenshots"))

    def request(asked):
        if not asked.url.startswith("file:"):
            wrong.append(f"asked for {asked.url}")

    def open_page(run, size="desktop", scheme="light", name="report"):
        width, height = SIZES[size]
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        opened.append(context)
        page = context.new_page()
        page.set_default_timeout(300_000)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", request)
        page.goto((run / "report.html").as_uri())
        page.screenshot(path=pictures / f"{name}-{size}-{scheme}.png", full_page=True)
        return page

    yield open_page
    for context in opened:
        context.close()
    assert not wrong


def column(table, number):
    """The cells of a column that are seen, from above."""
    cells = table.locator(f"tbody:visible > tr:visible > td:nth-child({number}):not([colspan])")
    return [text.strip() for text in cells.all_inner_texts()]


def texts(table):
    """What hangs below each row."""
    return table.locator("details").all_text_contents()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache):
    """A run whose rows want to be scripts."""
    folder = tmp_path_factory.mktemp("trained")
    rows = []
    for n in range(150):
        sides = [f"{ATTACK} yes {n}", f"no {n} " * (1 + n % 4)]
        chosen, rejected = sides[:: 1 if n % 3 else -1]  # no model is right on all of them
        row = {"prompt": f"{ATTACK} {n}", "chosen": chosen, "rejected": rejected}
        rows.append(row | {"subset": f"kind {n % 3}"})
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rmexp = CommandLine(folder, cache, reports=True)
    rmexp("model=tiny", "logger=none", "data=jsonl", f"data.path={file}", f"name='{ATTACK[:8]}'")
    return rmexp.runs()[0]


def test_a_run_opens_sorts_and_filters(trained, pages):
    page = pages(trained)
    assert page.title() == "script · rmexp"
    assert page.get_by_text(ATTACK).count() > 0, "a text stays text"
    table = page.locator("table", has_text="accuracy").last
    rows = table.locator("tbody tr")
    every = rows.count()
    heading = table.get_by_role("columnheader", name="test")
    assert heading.get_attribute("aria-sort") is None

    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    values = [float(text.split()[0]) for text in column(table, 2) if text]
    assert values == sorted(values)
    assert len(set(values)) > 5
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    values = [float(text.split()[0]) for text in column(table, 2) if text]
    assert values == sorted(values, reverse=True)
    table.get_by_role("columnheader", name="metric").get_by_role("button").press("Space")
    assert column(table, 1)[0] == min(column(table, 1))
    assert heading.get_attribute("aria-sort") is None

    box = page.get_by_role("searchbox", name="Rows that contain").last
    box.fill("CALIBRATED ece")
    assert column(table, 1) == ["ece_calibrated"]
    assert page.get_by_text(f"1 of {every}").is_visible()
    box.fill("")
    assert len(column(table, 1)) == every


def test_wrong_comparisons_carry_their_texts_along(trained, pages):
    page = pages(trained)
    table = page.locator("table.grouped")
    sure = list(map(float, column(table, 1)))
    assert len(sure) > 2
    assert sure == sorted(sure, reverse=True), "the surest first"
    before = dict(zip(column(table, 6), texts(table), strict=True))
    table.get_by_role("columnheader", name="P", exact=True).get_by_role("button").click()
    assert list(map(float, column(table, 1))) == sure[::-1]
    assert dict(zip(column(table, 6), texts(table), strict=True)) == before
    first = table.locator("tbody").first
    assert not first.locator("pre").first.is_visible()
    first.locator("summary").click()
    assert first.get_by_text(ATTACK).first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_run_fits_a_phone_in_either_scheme(trained, pages, scheme):
    page = pages(trained, "phone", scheme)
    for summary in page.locator("details > summary").all():
        summary.click()
    assert fits(page)
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = page.evaluate("getComputedStyle(document.querySelector('.plots svg')).color")
    assert [is_dark(back), is_dark(ink)] == (
        [True, False] if scheme == "dark" else [False, True]
    ), "plots are seen"


def test_a_comparison_opens_sorts_and_fits(tmp_path, rmexp, pages):
    rng = np.random.default_rng(0)
    for loss in ("contrastive", "bradley_terry"):
        for m in (0.5, 1.0, 2.0):
            wins = rng.normal(m, 3, 120)
            config = margin(m) | {"loss": {"_target_": loss, "margin": m}}
            write_run(tmp_path / "sweep" / f"{loss}-{m}", wins, config=config)
    rmexp.reports = True
    rmexp("task=compare", "runs=sweep")
    (run,) = (r for r in rmexp.runs() if result(r).get("task") == "compare")
    assert sorted(file.name for file in (run / "plots").iterdir()) == [
        "effects.png", "heat.png", "reliability.png", "settings.png",
    ]  # fmt: skip
    page = pages(run, name="comparison")
    table = page.locator("table.settings")
    heading = table.get_by_role("columnheader", name="test/accuracy")
    heading.get_by_role("button").click()
    number = page.evaluate("cell => cell.cellIndex", heading.element_handle()) + 1
    values = [float(text.split()[0]) for text in column(table, number)]
    assert len(values) == 6
    assert values == sorted(values)
    assert page.locator("table.heat td").count() == 6
    assert fits(pages(run, "phone", "dark", name="comparison"))

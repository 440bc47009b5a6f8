"""The page of a server in a real browser: it scores, explains, stores nothing, asks nobody else.

Pictures go into the folder that RMEXP_SCREENSHOTS names.
"""

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.helpers.browser import fits, is_dark, open_chromium
from tests.helpers.servers import CALIBRATION, make_service, running, write_model

pytestmark = pytest.mark.slow

ATTACK = "<img src=x onerror=alert(1)><script>document.title = 'taken'</script>"
PROMPT = "How long do I boil an egg so that its yolk stays soft?"
ANSWERS = [
    "Seven minutes, then into cold water.",
    f"Ten minutes in the microwave. {ATTACK}",
    "It depends: six minutes for a small egg, eight for a large one from the fridge.",
]
WARNING = "reward follows length: Spearman 0.71 on test."


@pytest.fixture(scope="module")
def chromium():
    with open_chromium() as browser:
        yield browser


def describe(service, **facts):
    service.info = dataclasses.replace(service.info, **facts)
    return service


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    accuracy = {"set": "test", "value": 0.75111, "low": 0.686, "high": 0.812}
    return describe(
        make_service(write_model(tmp_path_factory.mktemp("model") / "contrastive-demo")),
        base="HuggingFaceTB/SmolLM2-135M-Instruct",
        warnings=(WARNING, ATTACK),
        accuracy=accuracy,
    )


@pytest.fixture(scope="module")
def url(service):
    with running(service) as address:
        yield address


@pytest.fixture
def pages(chromium):
    """Opens the page of a server; at the end nothing may have gone wrong in any."""
    opened, wrong = [], []
    pictures = os.environ.get("RMEXP_SCREENSHOTS")

    def open_page(url, size=(1100, 900), scheme="light"):
        context = chromium.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
        )
        opened.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda said: "Failed to load resource" in said.text or wrong.append(said.text),
        )
        page.on("request", lambda asked: asked.url.startswith(url) or wrong.append(asked.url))
        page.on("response", lambda got: stored(got) and wrong.append(f"{got.url} may be stored"))
        page.goto(url)
        return page

    def stored(response):
        return response.headers.get("cache-control") != "no-store"

    open_page.picture = lambda page, name: (
        pictures and page.screenshot(path=Path(pictures) / f"serve-{name}.png", full_page=True)
    )
    open_page.wrong = wrong
    yield open_page
    for context in opened:
        context.close()
    assert not wrong


def write(page, prompt, answers):
    page.get_by_label("Turn 1", exact=True).fill(prompt)
    for n, answer in enumerate(answers, 1):
        box = page.get_by_label(f"Answer {n}", exact=True)
        if not box.count():
            page.get_by_role("button", name="Add an answer").click()
        box.fill(answer)


def press_score(page):
    page.get_by_role("button", name="Score", exact=True).click()


def shown(page, count):
    """The scored answers: (name, reward, notes), best first."""
    items = page.locator("#rewards li")
    items.nth(count - 1).wait_for()
    assert items.count() == count
    parts = (".who", ".value", ".notes span")
    return [
        tuple(" ".join(item.locator(part).all_inner_texts()) for part in parts)
        for item in items.all()
    ]


def test_rewards_are_those_of_the_scorer_and_texts_stay_texts(url, service, pages):
    page = pages(url)
    page.get_by_text("up to 400 tokens · accuracy 0.751 [0.686, 0.812] on test").wait_for()
    assert page.title() == "contrastive-demo · rmexp"
    warnings = page.get_by_role("region", name="Warnings from its evaluation")
    assert warnings.get_by_role("listitem").all_inner_texts() == [WARNING, ATTACK]

    write(page, PROMPT, ANSWERS)
    press_score(page)
    rewards = service.scorer.score(PROMPT, ANSWERS)
    order = sorted(range(3), key=lambda n: -rewards[n])
    found = shown(page, 3)
    assert [name for name, *_ in found] == [f"Answer {n + 1}" for n in order]
    assert [float(value) for _, value, _ in found] == pytest.approx(
        [rewards[n] for n in order], abs=6e-4
    )
    ratings = CALIBRATION.rating(rewards)
    better = CALIBRATION.probability(rewards)
    for n, (_, _, notes) in zip(order, found, strict=True):
        probability, rating, tokens = map(float, re.findall(r"[\d.]+(?= |$)", notes))
        assert (probability, rating) == pytest.approx((better[n], ratings[n]), abs=6e-3)
        assert tokens > len(ANSWERS[n]), "one token a byte, with the prompt"
    wins = CALIBRATION.win_probabilities(rewards)
    first, second, _ = order
    status = page.get_by_role("status").inner_text()
    assert status == (
        f"Answer {first + 1} has the highest reward; it is better than answer {second + 1} "
        f"with probability {wins[first][second]:.3f}."
    )
    table = page.get_by_role("table", name="P(row better than column)")
    cells = [row.get_by_role("cell").all_inner_texts() for row in table.get_by_role("row").all()]
    assert cells[1:] == [["" if i == j else f"{wins[i][j]:.3f}" for j in order] for i in order]
    mean, std = CALIBRATION.reward_mean, CALIBRATION.reward_std
    tracks = [bar.bounding_box() for bar in page.locator(".bar").all()]
    bars = [bar.bounding_box() for bar in page.locator(".bar i").all()]
    for n, track, bar in zip(order, tracks, bars, strict=True):
        ends = sorted([0.5, 0.5 + (rewards[n] - mean) / std / 4])  # two deviations each way
        left, right = bar["x"] - track["x"], bar["x"] + bar["width"] - track["x"]
        assert [left, right] == pytest.approx([end * track["width"] for end in ends], abs=1)
    assert page.get_by_text(ATTACK).count() >= 2
    assert page.title() == "contrastive-demo · rmexp"

    page.get_by_label("Answer 1", exact=True).fill("Other.")
    assert page.get_by_text("The texts have changed since").is_visible()


def test_json_fills_the_form(url, service, pages):
    page = pages(url)

    def paste(row):
        if not page.locator("#json").is_visible():
            page.get_by_text("Paste a dialogue as JSON").click()
        page.get_by_label("A list of messages that ends").fill(
            row if isinstance(row, str) else json.dumps(row)
        )
        page.get_by_role("button", name="Fill in and score").click()

    turns = [("system", "Be brief."), ("user", PROMPT), ("assistant", "Soft?"), ("user", "Yes.")]
    prompt = [{"role": role, "content": content} for role, content in turns]
    answer = {"role": "assistant", "content": [{"type": "text", "text": ANSWERS[0]}]}
    paste([*prompt, answer])
    (one,) = shown(page, 1)
    assert float(one[1]) == pytest.approx(service.scorer.score(prompt, ANSWERS[:1])[0], abs=6e-4)
    assert [select.input_value() for select in page.get_by_label("Role of turn").all()] == [
        role for role, _ in turns
    ]
    assert not page.get_by_label("A list of messages that ends").is_visible()

    answers = [{"role": "assistant", "content": text} for text in ANSWERS[:2]]
    pair = {"chosen": [prompt[1], answers[0]], "rejected": [prompt[1], answers[1]]}
    for row in (pair, {"prompt": PROMPT, "responses": ANSWERS[:2]}):
        paste(row)
        names = {name: float(value) for name, value, _ in shown(page, 2)}
        rewards = service.scorer.score(PROMPT, ANSWERS[:2])
        assert [names["Answer 1"], names["Answer 2"]] == pytest.approx(rewards, abs=6e-4)
        assert page.get_by_label("Turn 2").count() == 0

    for row, sentence in {
        "[1,": "This is no JSON: ",
        "{}": "There is no answer in it",
        '[{"role": "user", "content": "p"}]': "it has to be the assistant's",
        '[{"role": "assistant", "content": "r"}]': "There is no prompt before",
        '{"prompt": [{"role": "user"}], "response": "r"}': 'as content: {"role":"user"}',
        json.dumps(pair | {"prompt": "Another."}): "different messages before them",
    }.items():
        paste(row)
        assert sentence in page.get_by_role("alert").inner_text()
        assert page.get_by_role("alert").is_visible()


def test_errors_are_the_servers_sentence(url, pages):
    page = pages(url)
    error = page.get_by_role("alert")
    write(page, PROMPT, ["word " * 100, "short"])
    press_score(page)
    error.get_by_text("shorten it").wait_for()
    assert page.get_by_role("status").inner_text() == "Not scored."
    write(page, "", ["", ""])
    press_score(page)
    assert page.evaluate("document.activeElement.matches(':invalid')"), "a prompt is asked for"
    write(page, PROMPT, ["short", "shorter"])
    press_score(page)
    shown(page, 2)
    assert not error.is_visible()


def test_keys_alone_are_enough(url, pages):
    page = pages(url)
    name = "document.activeElement.ariaLabel ?? document.activeElement.textContent"
    page.get_by_label("Turn 1", exact=True).focus()
    page.keyboard.type("p")
    for expected in ("Add a turn", "Remove answer 1", "Answer 1", "Remove answer 2", "Answer 2"):
        page.keyboard.press("Tab")
        assert page.evaluate(name) == expected
        if expected.startswith("Answer"):
            page.keyboard.type(expected)
    page.keyboard.press("Control+Enter")
    shown(page, 2)
    page.get_by_label("Answer 2", exact=True).fill("Answer 1")
    page.keyboard.press("Control+Enter")
    page.get_by_text("The best answers have the same reward.").wait_for()
    page.get_by_label("Answer 2", exact=True).fill("Answer 2")
    page.get_by_role("button", name="Add an answer").press("Enter")
    assert page.evaluate(name) == "Answer 3"
    page.get_by_role("button", name="Remove answer 1").press("Space")
    assert page.evaluate(name) == "Answer 1", "the one that took its place"
    assert page.get_by_label("Answer 1", exact=True).input_value() == "Answer 2"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_either_scheme(url, pages, scheme):
    page = pages(url, scheme=scheme)
    write(page, PROMPT, [*ANSWERS, "nobreak" * 30])
    press_score(page)
    shown(page, 4)
    for name, (width, height) in {"desktop": (1100, 900), "phone": (360, 740)}.items():
        page.set_viewport_size({"width": width, "height": height})
        page.get_by_text("Paste a dialogue as JSON").click()
        assert fits(page)
        page.get_by_text("Paste a dialogue as JSON").click()
        back, ink = (
            page.evaluate(f"getComputedStyle(document.body).{key}")
            for key in ("backgroundColor", "color")
        )
        assert [is_dark(back), is_dark(ink)] == [scheme == "dark", scheme != "dark"]
        pages.picture(page, f"{name}-{scheme}")


def test_the_colours_are_those_of_reports():
    styles = ("rmexp/serve/page/page.css", "rmexp/analysis/report/style.css")
    ours, theirs = (re.findall(r":root {.*}", (ROOT / file).read_text()) for file in styles)
    assert len(ours) == 2
    assert ours == theirs


def test_a_token_is_asked_for_and_nothing_is_stored(tmp_path, pages):
    model = make_service(write_model(tmp_path / "plain", calibration=None))
    with running(model, token="secret") as url:
        page = pages(url)
        box = page.get_by_label("Token of this server")
        box.wait_for()
        assert page.title() == "rmexp"
        box.fill("wrong")
        box.press("Enter")
        page.get_by_role("alert").get_by_text("token").wait_for()
        box.fill("secret")
        box.press("Enter")
        page.get_by_role("heading", name="plain").wait_for()
        assert not box.is_visible()
        write(page, PROMPT, ANSWERS[:2])
        press_score(page)
        assert [notes.count("tokens") for *_, notes in shown(page, 2)] == [1, 1]
        assert page.get_by_text("this model has no calibration").is_visible()

        context = page.context
        assert context.cookies() == []
        assert context.storage_state(indexed_db=True) == {"cookies": [], "origins": []}
        assert page.evaluate("localStorage.length + sessionStorage.length") == 0
        page.reload()
        box.wait_for()
        assert page.get_by_label("Answer 1", exact=True).input_value() == ""


def test_scripts_in_the_page_do_not_run(url, pages):
    page = pages(url)
    policy = page.locator("meta[http-equiv]").get_attribute("content")
    assert "unsafe" not in policy
    refused = page.evaluate(
        "() => { try { document.body.innerHTML = 'x'; return false } catch { return true } }"
    )
    assert refused, "even by a mistake of ours"
    assert "TrustedHTML" in pages.wrong.pop()

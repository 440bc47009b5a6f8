"""The report: what it shows, and that a row's text stays text."""

import re

from tests.conftest import result


def test_the_report_shows_the_numbers_and_escapes_text(rmexp, write_rows):
    rows = [
        {"prompt": f"<script>alert({n})</script>", "chosen": f"yes {n}", "rejected": f"no {n}"}
        for n in range(20)
    ]
    path = write_rows(rows)
    rmexp("model=tiny", "logger=none", "data=jsonl", f"data.path={path}", "name='<b>bold</b>'")
    (run,) = rmexp.runs()
    page = (run / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert" in page
    assert "<b>bold" not in page
    assert page.count("<svg") == 4
    assert f"{result(run)['metrics']['test/nll']:.4f}" in page
    assert not re.search(r"(?:src|href)=.https?:", page), "one file, no network"

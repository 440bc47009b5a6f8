"""Do 95% intervals hold the truth 95 times in 100, and tests at 5% raise 5 false alarms?

200 studies each in `make test`, in the band that 95% (or 5%) has with that number; 1,000 in `make
soak`, where the share itself must be 93 to 97% (or 3.5 to 6.5%). docs/coverage.md has the table.
"""

import os

import pytest

from bench.coverage import ALARMED, COVERED, NAIVE, alarms, band, intervals, powers, share

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
STUDIES = 1000 if SOAK else 200

pytestmark = [pytest.mark.long, pytest.mark.slow]


def named(cases):
    return [pytest.param(one, id=one.what) for one in cases]


def test_bands_are_the_binomials():
    assert band(0.95, 200) == (0.895, 0.99)
    assert band(0.05, 200) == (0.01, 0.105)


@pytest.mark.parametrize("cases", named(intervals()))
def test_intervals_cover(cases):
    low, high = COVERED if SOAK else band(0.95, STUDIES)
    if cases.few:  # no method is exact
        low, high = band(0.92, STUDIES)[0], 1
    assert low <= share(cases, STUDIES) <= high


@pytest.mark.parametrize("cases", named(alarms()))
def test_no_more_false_alarms_than_promised(cases):
    low, high = ALARMED if SOAK else band(0.05, STUDIES)
    if cases.few:
        low, high = 0, band(0.065, STUDIES)[1]
    assert low <= share(cases, STUDIES) <= high


@pytest.mark.parametrize("cases", named(powers()))
def test_what_is_there_is_seen(cases):
    assert share(cases, STUDIES) > 0.6


def test_the_test_that_takes_pairs_for_independent_is_caught():
    assert share(NAIVE, STUDIES) > 0.2

"""The scenarios against the figures that were computed by hand from the same sources."""

import json

import pytest

from bitweir_loadgen.commands import forecast
from bitweir_loadgen.scenarios import CODES, SCENARIOS, table

# Lifetime upload over weights for each code of CODES in order, two digits.
RATIOS = {
    "a book for everybody": (35, 16, 10, 3.2, 1.0, 0.30, 0.10),
    "10 % of 1e11 words a day": (10.7, 5.0, 3.0, 0.97, 0.30, 0.091, 0.030),
    "DeepSeek V3/R1, all uploaded": (257, 119, 73, 23, 7.3, 2.2, 0.73),
    "the same, reasoning kept inside": (66, 31, 19, 6.0, 1.9, 0.56, 0.19),
    "1 TB of tokens a day": (180, 83, 51, 16, 5.1, 1.5, 0.51),
    "OpenAI's API, October 2025": (428, 198, 122, 39, 12, 3.6, 1.2),
}


def test_the_table_is_the_one_computed_by_hand() -> None:
    rows = {row["name"]: row for row in table(CODES)}
    assert set(rows) == set(RATIOS)
    for name, due in RATIOS.items():
        assert tuple(rows[name]["upload_ratio"].values()) == pytest.approx(due, rel=0.03)


def test_days_shrink_as_the_attacker_compresses_and_the_cap_widens() -> None:
    for narrow, wide in zip(table(CODES), table(CODES, headroom=3), strict=True):
        for code, days in narrow["days_to_exfiltrate"].items():
            plain, sixteen, hundred = days.values()
            assert plain == pytest.approx(16 * sixteen)
            assert plain == pytest.approx(100 * hundred)
            assert wide["days_to_exfiltrate"][code]["weights as they are"] == pytest.approx(plain / 3)


def test_every_scenario_names_its_source() -> None:
    assert all(scenario.source and scenario.name for scenario in SCENARIOS)
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)


def test_the_command_prints_the_ratio_of_the_bits_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    forecast(bits=[1.0], headroom=2.0, json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[-2:] == ["1", "1"]
    assert "days to exfiltrate, compressed 16 times, cap filled (headroom 2)" in lines
    forecast(bits=None, headroom=1.0, json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["codes"]["0.1 bits"] == 0.1
    assert document["rows"][0]["source"]

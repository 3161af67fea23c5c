"""The lifetime arithmetic: its identities, and the essay's own numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_metering.errors import UnitError
from bitweir_metering.lifetime import Service, tokens_until_weights

FIGURES = st.floats(1e-3, 1e15)
SHARES = st.floats(1e-3, 1.0)
SERVICES = st.builds(Service, FIGURES, FIGURES, FIGURES, SHARES, st.floats(1, 64), SHARES)


def test_the_essays_books() -> None:
    books = Service(weights_bytes=1e14, generated_tokens_per_day=8e14 / 730, life_days=730)
    assert books.upload_ratio(0.1) == pytest.approx(0.1)
    assert books.break_even_bits == pytest.approx(1.0)
    assert books.upload_ratio(35.2) == pytest.approx(35.2)
    assert books.days_to_exfiltrate(1.0) == pytest.approx(730)
    assert tokens_until_weights(1e14, 1.0) == pytest.approx(8e14)


def test_hidden_reasoning_candidates_and_what_stays_inside_divide_what_leaves() -> None:
    whole = Service(1e12, 1e9, 100)
    part = Service(1e12, 1e9, 100, visible_share=0.5, candidate_count=4, exported_share=0.25)
    assert part.exported_tokens_per_day == pytest.approx(whole.exported_tokens_per_day / 32)
    assert part.break_even_bits == pytest.approx(32 * whole.break_even_bits)


@given(SERVICES, st.floats(1e-3, 100))
def test_the_ratio_is_one_at_break_even_and_linear(service: Service, bits: float) -> None:
    assert service.upload_ratio(service.break_even_bits) == pytest.approx(1)
    assert service.upload_ratio(2 * bits) == pytest.approx(2 * service.upload_ratio(bits))


@given(SERVICES, st.floats(1e-3, 100), st.floats(1, 10), st.floats(1, 100), SHARES)
def test_who_fills_the_mean_for_a_life_has_sent_the_ratio(
    service: Service, bits: float, headroom: float, compression: float, usable: float
) -> None:
    days = service.days_to_exfiltrate(bits, headroom=headroom, compression=compression, usable_share=usable)
    sent = service.upload_ratio(bits) * headroom * usable * compression * days / service.life_days
    assert sent == pytest.approx(1)


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf, True, "1", None])
def test_figures_that_are_none_are_refused(bad: float) -> None:
    good = [1e12, 1e9, 100.0, 1.0, 1.0, 1.0]
    for index in range(len(good)):
        with pytest.raises(UnitError):
            Service(*good[:index], bad, *good[index + 1 :])
    service = Service(*good)
    with pytest.raises(UnitError):
        service.upload_ratio(bad)
    for name in ("headroom", "compression", "usable_share"):
        with pytest.raises(UnitError):
            service.days_to_exfiltrate(1.0, **{name: bad})
    with pytest.raises(UnitError):
        tokens_until_weights(bad, 1)
    with pytest.raises(UnitError):
        tokens_until_weights(1, bad)


@pytest.mark.parametrize(("name", "value"), [("visible_share", 1.01), ("exported_share", 2), ("candidate_count", 0.5)])
def test_shares_and_counts_have_their_ends(name: str, value: float) -> None:
    with pytest.raises(UnitError):
        Service(1e12, 1e9, 100, **{name: value})


@pytest.mark.parametrize(("name", "value"), [("headroom", 0.9), ("compression", 0.5), ("usable_share", 1.5)])
def test_attackers_have_their_ends(name: str, value: float) -> None:
    with pytest.raises(UnitError):
        Service(1e12, 1e9, 100).days_to_exfiltrate(1, **{name: value})

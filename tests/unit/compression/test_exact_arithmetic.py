"""Every operation of the exact model against Python's whole numbers, and the allow-list green and red."""

import itertools
import math

import pytest
import torch

from bitweir_compression.exact import arithmetic
from bitweir_compression.exact.allowlist import AllowList
from bitweir_compression.exact.errors import ForbiddenOpError


def integers(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def half_up(value: int, bits: int) -> int:
    return (2 * value + (1 << bits)) >> (bits + 1)


@pytest.mark.parametrize("bits", [0, 1, 2, 7, 31, 62])
def test_shifting_rounds_half_up_for_either_sign(bits: int) -> None:
    near = [k * (1 << bits) // 2 + d for k in (-5, -3, -2, -1, 0, 1, 2, 3, 5) for d in (-1, 0, 1)]
    values = [value for value in (*near, 1 << 60, -(1 << 60)) if abs(value) <= 1 << 60]
    expected = [half_up(value, bits) for value in values]
    assert arithmetic.shift_right(integers(*values), bits).tolist() == expected
    rows = integers(*values)[:, None]
    assert arithmetic.shift_rows(rows, torch.full_like(rows, bits)).flatten().tolist() == expected


def test_shifting_says_what_the_specification_says() -> None:
    assert arithmetic.shift_right(integers(-1, -3, 3, 1), 1).tolist() == [0, -1, 2, 1]


def test_rescaling_shifts_left_where_bits_are_negative_and_to_nothing_where_they_are_many() -> None:
    value = integers(5, -5, 1 << 50)[:, None]
    bits = integers(-3, -1, 200)[:, None]
    assert arithmetic.rescale_rows(value, bits, 3).flatten().tolist() == [40, -10, 0]


def test_bit_length() -> None:
    values = [0, *itertools.chain.from_iterable(((1 << k) - 1, 1 << k) for k in range(1, 62)), (1 << 63) - 1]
    assert arithmetic.bit_length(integers(*values)).tolist() == [value.bit_length() for value in values]


@pytest.mark.parametrize("limit", [127, 16319, 32767, (1 << 24) - 1])
def test_a_row_is_shifted_as_little_as_possible(limit: int) -> None:
    edges = {edge for s in range(34) for edge in (limit << s, (limit << s) + (1 << s) // 2)}
    maxima = sorted({0, 1, 2, *(edge + d for edge in edges for d in (-1, 0, 1, 2))})
    for maximum, shift in zip(maxima, arithmetic.row_shift(integers(*maxima), limit).tolist(), strict=True):
        assert half_up(maximum, shift) <= limit
        assert shift == 0 or half_up(maximum, shift - 1) > limit


@pytest.mark.parametrize("limit", [127, 16319, 32767])
def test_quantised_rows_stay_within_the_limit(limit: int) -> None:
    rows = integers(0, 0, limit, -limit, limit + 1, -limit - 1, 1 << 60, -(1 << 60), 3 * limit, -1).view(5, 2)
    q, shift = arithmetic.quantise_rows(rows, limit)
    assert int(q.abs().max()) <= limit
    for row, whole, bits in zip(rows.tolist(), q.tolist(), shift.flatten().tolist(), strict=True):
        assert whole == [half_up(value, bits) for value in row]


def test_digits_are_small_and_add_up() -> None:
    every = torch.arange(-16319, 16320)
    high, low = arithmetic.digits(every)
    assert int(high.abs().max()) == 127
    assert int(low.min()) == -64 and int(low.max()) == 63
    assert torch.equal(128 * high + low, every)


@pytest.mark.parametrize("count", [1, 2, 63, 1040, 1041, 2080, 2081])
def test_products_at_the_limits_are_exact(count: int) -> None:
    for product, limit, dtype in (
        (arithmetic.product32, 127, torch.float32),
        (arithmetic.product64, 32767, torch.float64),
    ):
        signs = torch.ones(4, count, dtype=dtype)
        signs[1], signs[2, ::2], signs[3, count // 2 :] = -1, -1, -1
        right = torch.full((count, 3), limit, dtype=dtype)
        got = product(signs * limit, right)
        expected = [int(row.sum()) * limit * limit for row in signs.to(torch.int64)]
        assert got.tolist() == [[value] * 3 for value in expected]


def test_an_odd_sum_just_below_the_limit_survives_float32() -> None:
    # 1039 products of 127 * 127 and one of 127 * 126: odd partial sums over 2**23, where float32 steps are 1.
    left = torch.full((1, 1040), 127.0)
    left[0, 500] = 126.0
    assert arithmetic.product32(left, torch.full((1040, 1), 127.0)).item() == (1039 * 127 + 126) * 127


def test_the_root_is_the_floor() -> None:
    low, high = 1 << 30, (1 << 31) - 1
    roots = {low, low + 1, high, high - 1, 1518500249, 1518500250, *(low + 1048573 * k for k in range(1024))}
    values = sorted({v for r in roots for v in (r * r - 1, r * r, r * r + 1, r * r + 2 * r) if 1 << 60 <= v < 1 << 62})
    assert arithmetic.root(integers(*values)).tolist() == [math.isqrt(value) for value in values]


def test_unit_rows_follow_the_specification() -> None:
    rows = [[0, 0, 0], [1, -1, 0], [1 << 40, 1, -(1 << 40)], [(1 << 24) - 1, 12345, -7], [1 << 24, 3 << 23, -5]]
    for epsilon in (1, 1 << 20, 1 << 60):
        value = torch.tensor(rows)
        got = arithmetic.unit_rows(value, arithmetic.row_max(value), epsilon).tolist()
        for row, result in zip(rows, got, strict=True):
            e = next(s for s in range(64) if half_up(max(map(abs, row)), s) < 1 << 24)
            z = [half_up(x, e) for x in row]
            v = sum(x * x for x in z) + half_up(epsilon, min(2 * e, 62))
            j = (62 - v.bit_length()) // 2
            reciprocal = (1 << 61) // math.isqrt(v << (2 * j))
            assert result == [half_up(x * reciprocal, 37 - j) for x in z]
            assert all(abs(r - x / math.sqrt(v) * 2**24) < 1 for r, x in zip(result, z, strict=True))


def test_centring_removes_the_mean() -> None:
    row = integers(1 << 40, -(1 << 40), 5, 7, 11)
    assert arithmetic.centred(row).tolist() == [half_up(5 * x - int(row.sum()), 2) for x in row.tolist()]


def test_division_rounds_half_up() -> None:
    cases = [(n, d) for n in (-(1 << 53), -3, -1, 0, 1, 3, 1 << 53) for d in (1, 2, 3, 7, 1 << 34)]
    got = arithmetic.divide(integers(*(n for n, _ in cases)), integers(*(d for _, d in cases)))
    assert got.tolist() == [(256 * n + d // 2) // d for n, d in cases]


def test_looking_up_stops_at_the_last_entry() -> None:
    assert arithmetic.look_up(integers(9, 8, 7), integers(0, 2, 3, 1 << 60)).tolist() == [9, 7, 7, 7]


def test_the_allow_list_lets_exact_work_through() -> None:
    rows = integers(3, -4, 5, 1 << 30).view(2, 2)
    with AllowList() as mode:
        q, _ = arithmetic.quantise_rows(rows, 127)
        arithmetic.product32(q.to(torch.float32), q.to(torch.float32))
        arithmetic.unit_rows(rows, arithmetic.row_max(rows), 7)
    assert mode.counts["bucketize"] and mode.counts["mm"]


WHOLE = torch.full((2, 1041), 127.0)
FORBIDDEN = {
    "rsqrt": lambda: torch.rsqrt(WHOLE),
    "sqrt": lambda: torch.sqrt(WHOLE),
    "mean": lambda: torch.mean(WHOLE),
    "softmax": lambda: torch.softmax(WHOLE, dim=-1),
    "exp": lambda: torch.exp(WHOLE),
    "pow": lambda: WHOLE.pow(2),
    "float division": lambda: WHOLE / WHOLE,
    "scalar division": lambda: WHOLE / 3,
    "integer true division": lambda: integers(4) / integers(2),
    "float addition": lambda: WHOLE + WHOLE,
    "float sum": lambda: torch.sum(WHOLE),
    "addcmul": lambda: torch.addcmul(WHOLE, WHOLE, WHOLE),
    "lerp": lambda: torch.lerp(WHOLE, WHOLE, 0.5),
    "fused attention": lambda: torch.nn.functional.scaled_dot_product_attention(WHOLE, WHOLE, WHOLE),
    "addmm": lambda: torch.addmm(torch.ones(2, 2), WHOLE[:, :2], WHOLE[:, :2]),
    "alpha": lambda: torch.add(integers(1), integers(2), alpha=3),
    "integer times float": lambda: integers(1) * 0.5,
    "sums of 2**24 in float32": lambda: WHOLE @ WHOLE.t(),
    "operands of 128 in float32": lambda: torch.full((1, 1), 128.0) @ torch.ones(1, 1),
    "fractions": lambda: torch.full((1, 1), 0.5) @ torch.ones(1, 1),
    "sums over 2**53 in float64": lambda: (
        torch.full((1, 2), 2.0**26, dtype=torch.float64) @ torch.full((2, 1), 2.0**26 + 1, dtype=torch.float64)
    ),
    "half precision": lambda: torch.ones(1, 1, dtype=torch.float16) @ torch.ones(1, 1, dtype=torch.float16),
    "rounding conversion": lambda: torch.full((1,), 0.5).to(torch.int64),
    "narrowing conversion": lambda: integers((1 << 24) + 1).to(torch.float32),
    "multiplication that wraps": lambda: integers(1 << 40) * integers(1 << 40),
    "shift that wraps": lambda: torch.bitwise_left_shift(integers(1 << 40), 30),
    "sum that wraps": lambda: integers(1 << 62, 1 << 62, 1 << 62).sum(),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_the_allow_list_stops(name: str) -> None:
    FORBIDDEN[name]()  # it runs without the mode
    with AllowList(), pytest.raises(ForbiddenOpError):
        FORBIDDEN[name]()

"""The allow-list refuses what its rules 2, 4 and 5 exclude, and only that."""

from collections.abc import Callable

import pytest
import torch

from bitweir_compression.exact.allowlist import AllowList
from bitweir_compression.exact.errors import ForbiddenOpError

YES = torch.tensor([True])
BEYOND = torch.tensor([(1 << 24) + 1])
ONES = torch.ones(2)
ONE = torch.ones(1, 1)
INT64_MIN = torch.tensor([-(1 << 63)])


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def added_in_place() -> torch.Tensor:
    return torch.zeros(2).index_put_((torch.tensor([0, 0]),), ONES, accumulate=True)


FORBIDDEN: dict[str, Callable[[], object]] = {
    "accumulate on floats": added_in_place,
    "cat that promotes": lambda: torch.cat([BEYOND, ONES[:1]]),
    "stack that promotes": lambda: torch.stack([BEYOND, ONES[:1]]),
    "where that promotes": lambda: torch.where(YES, BEYOND, ONES[:1]),
    "where with a float": lambda: torch.where(YES, BEYOND, 0.5),
    "fill with a float": lambda: torch.zeros(2, dtype=torch.int64).fill_(0.7),
    "full with a float": lambda: torch.full((2,), 0.7, dtype=torch.int64),
    "full that rounds": lambda: torch.full((2,), (1 << 24) + 1, dtype=torch.float32),
    "arange of floats": lambda: torch.arange(0, 1, 0.3),
    "arange into integers": lambda: torch.arange(0, 3, 1.5, dtype=torch.int64),
    "int32 product that wraps": lambda: int32(1 << 20) * int32(1 << 20),
    "int32 product in place that wraps": lambda: int32(1 << 20).mul_(int32(1 << 20)),
    "int32 sum that wraps": lambda: torch.tensor([1 << 31, 1 << 31]).sum(dtype=torch.int32),
    "bytes below 0": lambda: torch.tensor([1], dtype=torch.uint8) - torch.tensor([2], dtype=torch.uint8),
    "positional alpha": lambda: torch.ops.aten.rsub.Scalar(BEYOND, 1, 3),
    "abs of the least": INT64_MIN.abs,
    "neg of the least": INT64_MIN.neg,
    "shift by 64": lambda: torch.bitwise_right_shift(BEYOND, 64),
    "left shift by 64": lambda: torch.bitwise_left_shift(BEYOND, torch.tensor([64])),
    "left shift by -1": lambda: torch.bitwise_left_shift(BEYOND, -1),
    "view as another dtype": lambda: ONES.view(torch.int32),
    "product to out": lambda: torch.mm(ONE, ONE, out=torch.empty(1, 1)),
    "sum to out": lambda: torch.add(BEYOND, BEYOND, out=torch.empty(1, dtype=torch.int64)),
    "two integer dtypes": lambda: BEYOND + int32(1),
    "conversion that changes a sign": lambda: torch.tensor([-1], dtype=torch.int8).to(torch.uint8),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_it_refuses(name: str) -> None:
    FORBIDDEN[name]()  # it runs without the mode
    with AllowList(), pytest.raises(ForbiddenOpError) as caught:
        FORBIDDEN[name]()
    assert "not on the allow-list" not in str(caught.value)


ALLOWED: dict[str, Callable[[], torch.Tensor]] = {
    "cat": lambda: torch.cat([BEYOND, BEYOND]),
    "where": lambda: torch.where(YES, BEYOND, 0),
    "fill": lambda: torch.zeros(2, dtype=torch.int64).fill_(7),
    "full of floats": lambda: torch.full((2,), 127.0),
    "arange": lambda: torch.arange(2, 8, 3),
    "int32 product": lambda: int32(1 << 15) * int32((1 << 15) + 1),
    "shift by 62": lambda: torch.bitwise_right_shift(BEYOND, 62),
    "neg": BEYOND.neg,
    "put": lambda: torch.zeros(2).index_put_((torch.tensor([0, 1]),), ONES),
    "view": lambda: ONE.view(1),
    "count of a mask": YES.sum,
}


@pytest.mark.parametrize("name", ALLOWED)
def test_it_lets_through(name: str) -> None:
    expected = ALLOWED[name]()
    with AllowList():
        got = ALLOWED[name]()
    assert torch.equal(got, expected)

"""Sizes of frames: the classes, what is fixed, and the largest payload."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_metering import sizes
from bitweir_metering.errors import SizeError


def test_the_ladder_is_frozen() -> None:
    # Both ends and every ledger count by it.
    assert sizes.SIZE_CLASSES[:29] == tuple(range(8, 66, 2))
    assert sizes.SIZE_CLASSES[29:] == (96, 128, 192, 256, 384, 512, 768, 1024)
    assert sizes.HEADER_INFORMATION_BITS == 12


def test_the_figures_of_a_typical_frame() -> None:
    # 128 streams x 10 steps at .05 bits of KL a token: 98 payload bits.
    assert sizes.class_bytes(98) == 14
    assert sizes.frame_bytes(98) == 27
    assert sizes.wire_bytes(98) == 69


@pytest.mark.parametrize(("bits", "size"), [(0, 8), (63, 8), (64, 10), (511, 64), (512, 96), (8191, 1024)])
def test_borders_of_classes(bits: int, size: int) -> None:
    assert sizes.class_bytes(bits) == size


@pytest.mark.parametrize("bits", [-1, 8192])
def test_what_fits_no_frame(bits: int) -> None:
    with pytest.raises(SizeError) as caught:
        sizes.class_bytes(bits)
    assert caught.value.remedy


@given(st.integers(0, 8191))
def test_the_closing_bit_fits_and_the_next_smaller_class_would_not_hold_it(bits: int) -> None:
    size = sizes.class_bytes(bits)
    assert bits < 8 * size
    assert all(bits >= 8 * smaller for smaller in sizes.SIZE_CLASSES if smaller < size)


def test_all_frames_of_a_class_and_all_smaller_ones_are_fewer_than_the_information_says() -> None:
    # Kraft: the sum over classes of 2**(payload bits) * 2**(class, lane) stays below what is charged for each.
    assert len(sizes.SIZE_CLASSES) <= 2 ** (sizes.HEADER_INFORMATION_BITS - 6)

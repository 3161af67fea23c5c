"""Laws of the noise: numpy and torch agree to the bit, and the cheap search finds what the full one finds."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitweir_compression import noise, noise_torch

U64 = st.integers(0, (1 << 64) - 1)
POSITION_KEYS = st.tuples(U64, U64)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def as_torch(words: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(words.view(np.int64))


@given(keys=st.lists(POSITION_KEYS, min_size=1, max_size=3), vocabulary_size=st.integers(1, 257))
def test_words_of_numpy_and_torch_agree(keys: list, vocabulary_size: int) -> None:
    expected = np.stack([noise.words(key, vocabulary_size) for key in keys]).view(np.int64)
    for device in DEVICES:
        got = noise_torch.words(keys, vocabulary_size, device)
        assert np.array_equal(got.cpu().numpy(), expected)


@given(words=st.lists(U64, min_size=1, max_size=64))
def test_gumbel_of_numpy_and_torch_agree(words: list) -> None:
    array = np.array(words, dtype=np.uint64)
    for device in DEVICES:
        got = noise_torch.gumbel(as_torch(array).to(device))
        assert np.array_equal(got.cpu().numpy(), noise.gumbel(array))


@given(
    rows=st.integers(1, 4),
    vocabulary_size=st.integers(1, 300),
    spread_bits=st.sampled_from([0, 1, 20, 24, 28, 34]),
    excluded_share=st.sampled_from([0.0, 0.5, 0.95]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_way_to_choose_agrees(
    rows: int, vocabulary_size: int, spread_bits: int, excluded_share: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(-(1 << spread_bits), (1 << spread_bits) + 1, (rows, vocabulary_size))
    excluded = random.random((rows, vocabulary_size)) < excluded_share
    excluded[:, random.integers(vocabulary_size)] = False
    scores[excluded] = noise.NEVER
    words = random.integers(0, 1 << 64, (rows, vocabulary_size), dtype=np.uint64)
    # Shrinking some words plants extreme noise, and equal words plant exact ties.
    words >>= random.choice(np.array([0, 0, 0, 30, 60, 63], dtype=np.uint64), words.shape)
    full = [int((s + noise.gumbel(w)).argmax()) for s, w in zip(scores, words, strict=True)]
    cheap = noise.choose(list(scores), list(words))
    torch_rows = noise_torch.choose(torch.from_numpy(scores), as_torch(words)).tolist()
    assert cheap == full == torch_rows
    assert not any(excluded[row, token] for row, token in enumerate(full))

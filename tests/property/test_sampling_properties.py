"""Laws of truncation, for any logits and any specification."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bitweir_compression import noise, sampling
from bitweir_compression.sampling import SamplingSpec

# Few distinct values, so that ties at borders are common.
LOGITS = st.lists(st.sampled_from([-9.0, -1.0, 0.0, 0.5, 3.0, -np.inf]), min_size=1, max_size=30).filter(
    lambda logits: max(logits) > -np.inf
)
SPECS = st.builds(
    SamplingSpec,
    temperature=st.sampled_from([0.01, 0.3, 1.0, 2.0, 100.0]),
    top_k=st.integers(0, 12),
    top_p=st.floats(0.01, 1.0),
    min_p=st.floats(0.0, 1.0),
)


@given(logits=LOGITS, spec=SPECS)
def test_truncation_keeps_a_prefix_of_the_ranking(logits: list, spec: SamplingSpec) -> None:
    kept = sampling.scores(logits, spec) > noise.NEVER
    ranking = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    count = int(kept.sum())
    # Without min-p the kept tokens are exactly the first of the ranking; min-p drops whole tie groups from its end.
    assert count >= 1
    assert {logits[i] for i in np.flatnonzero(kept)} == {logits[i] for i in ranking[:count]}
    if spec.min_p == 0:
        assert sorted(ranking[:count]) == np.flatnonzero(kept).tolist()
    if spec.top_k:
        assert count <= spec.top_k


@given(logits=LOGITS, spec=SPECS)
def test_probabilities_and_scores_describe_one_distribution(logits: list, spec: SamplingSpec) -> None:
    mass = sampling.probabilities(logits, spec)
    integers = sampling.scores(logits, spec)
    kept = integers > noise.NEVER
    assert abs(mass.sum() - 1) < 1e-12
    from_scores = np.where(kept, np.exp2(np.maximum(integers, -(1 << 40)) / 2**noise.FRACTION_BITS), 0)
    assert np.allclose(from_scores / from_scores.sum(), mass, atol=1e-6)


@given(logits=LOGITS, spec=SPECS, shift=st.integers(-50, 50))
def test_a_constant_added_to_all_logits_changes_no_kept_set(logits: list, spec: SamplingSpec, shift: int) -> None:
    shifted = sampling.scores(np.array(logits) + shift, spec)
    assert ((shifted > noise.NEVER) == (sampling.scores(logits, spec) > noise.NEVER)).all()


ROWS = st.lists(
    st.tuples(LOGITS, SPECS | st.just(SamplingSpec(temperature=0)), st.tuples(*[st.integers(0, 2**64 - 1)] * 2)),
    max_size=4,
)


@given(rows=ROWS)
def test_a_draw_is_a_kept_token_and_a_function_of_its_row(rows: list) -> None:
    tokens = sampling.sample(*([row[i] for row in rows] for i in range(3)))
    for (logits, spec, key), token in zip(rows, tokens, strict=True):
        assert sampling.probabilities(logits, spec)[token] > 0
        assert sampling.sample([logits], [spec], [key]) == [token]

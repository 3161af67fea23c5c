"""The built-in foreign prompts: plain, different from each other, and no work of the tutor's."""

from itertools import islice

from bitweir_compression.corpus import Split, documentation, tutor
from bitweir_compression.corpus.foreign import FOREIGN_PROMPTS
from bitweir_compression.corpus.prompts import read_prompts


def test_they_are_short_plain_questions(tmp_path) -> None:
    assert 35 <= len(FOREIGN_PROMPTS) <= 50
    assert len({prompt.casefold() for prompt in FOREIGN_PROMPTS}) == len(FOREIGN_PROMPTS)
    for prompt in FOREIGN_PROMPTS:
        assert prompt.isascii()
        assert prompt.isprintable()
        assert prompt == prompt.strip()
        assert 10 <= len(prompt) <= 100
    path = tmp_path / "foreign.txt"
    path.write_text("\n".join(FOREIGN_PROMPTS))
    assert [record.prompt for record in read_prompts(path)] == list(FOREIGN_PROMPTS)


def phrases(prompt: str) -> set[tuple[str, ...]]:
    """All runs of four words."""
    words = prompt.lower().split()
    return {tuple(words[start : start + 4]) for start in range(len(words) - 3)}


def test_they_are_of_neither_corpus() -> None:
    ours = [
        phrases(item.prompt)
        for generate in (tutor.generate, documentation.generate)
        for split in Split
        for item in islice(generate(1, split), 1_500)
    ]
    for prompt in FOREIGN_PROMPTS:
        shared = max(len(phrases(prompt) & theirs) for theirs in ours)
        assert shared <= 1, prompt

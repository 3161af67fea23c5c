"""Answer a list of prompts with the strong model, seeded and repeatable, and say what uploading the answers would cost.

Rules:
1. The noise key of prompt i is `request_key(master, i)` with a master key derived from the seed: the same seed,
   prompts and model give the same answers. Another batch size can change one only through the model's float rounding.
2. Costs are of visible tokens only; reasoning stays where it was written. The row measured against the weak model is
   an ideal code length: no coder and no frame is behind it, and the report says so.
3. The two rows that count tokens pay for the end token of every answer, as a coder must; the rows that count text do
   not say where a message ends, which favours them.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bitweir_compression import baselines, guard, noise
from bitweir_compression.models.chat import ChatTokenizer
from bitweir_compression.models.checkpoint import Pair
from bitweir_compression.models.evaluation import measure
from bitweir_compression.models.examples import exchange
from bitweir_compression.models.training import Model
from bitweir_compression.sampling import SamplingSpec
from bitweir_services.engines.hf import HuggingFaceEngine
from bitweir_services.engines.requests import Finish, FinishEvent, GenerationRequest
from bitweir_services.engines.scheduler import Scheduler, Vocabulary
from bitweir_services.errors import RequestError

# Answers done, prompts in all.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Limits:
    """Token limits and batch of a run; see `GenerationRequest`."""

    visible_tokens_max: int = 160
    hidden_tokens_max: int = 160
    slot_count: int = 32


@dataclass(frozen=True)
class Answer:
    """What the strong model wrote to one prompt.

    Attributes:
        prompt: the text asked.
        text: the visible text.
        hidden: reasoning token ids, the closing one included.
        visible: visible token ids, the end token included where one was written.
        finish: why it ended.
    """

    prompt: str
    text: str
    hidden: tuple[int, ...]
    visible: tuple[int, ...]
    finish: Finish


@dataclass(frozen=True)
class LoadedPair:
    """A pair in memory: both models in evaluation mode and the tokenizer they share."""

    strong: Model
    weak: Model
    tokenizer: ChatTokenizer


def load(pair: Pair) -> LoadedPair:
    """Load both models of a pair to the CPU."""
    return LoadedPair(pair.strong.model(), pair.weak.model(), pair.strong.tokenizer())


def master_key(seed: int) -> bytes:
    """Return the 32-byte master key of a command-line seed. A service draws its master key at random instead."""
    return hashlib.sha256(b"bitweir command-line seed\x00" + str(seed).encode()).digest()


def answer(
    loaded: LoadedPair,
    prompts: Sequence[str],
    *,
    seed: int,
    sampling: SamplingSpec,
    limits: Limits,
    progress: Progress,
) -> list[Answer]:
    """Answer every prompt.

    Raises:
        RequestError: a prompt does not fit the model's context; nothing is generated then.
    """
    tokenizer = loaded.tokenizer
    engine = HuggingFaceEngine(loaded.strong, slot_count=min(limits.slot_count, max(1, len(prompts))))
    vocabulary = Vocabulary(tokenizer.end, tokenizer.decode, tokenizer.special_ids, tokenizer.end_think)
    scheduler = Scheduler(engine, vocabulary)
    master = master_key(seed)
    for number, prompt in enumerate(prompts):
        request = GenerationRequest(
            prompt=tuple(tokenizer.strong_prompt(prompt)),
            key=noise.request_key(master, number),
            sampling=sampling,
            visible_tokens_max=limits.visible_tokens_max,
            hidden_tokens_max=limits.hidden_tokens_max,
        )
        try:
            scheduler.submit(request)
        except RequestError as error:
            raise RequestError(f"prompt {number + 1}: {error}", remedy=error.remedy) from error
    finishes: dict[int, FinishEvent] = {}
    while scheduler.in_flight_count:
        finished = [event for event in scheduler.step() if isinstance(event, FinishEvent)]
        finishes |= {event.request: event for event in finished}
        if finished:
            progress("answers", len(finishes), len(prompts))
    return [
        Answer(prompt, event.text, event.hidden, event.visible, event.finish)
        for prompt, event in ((prompts[number], finishes[number]) for number in range(len(prompts)))
    ]


def upload_costs(
    pair: Pair, loaded: LoadedPair, answers: Sequence[Answer], *, sampling: SamplingSpec
) -> dict[str, Any]:
    """Return what uploading the answers costs by each yardstick, and against the weak model.

    Returns:
        `tokens`, `bytes`, `weights_bytes`, `rows` (name, bits, bits per token and per byte, upload over weights, note),
        `measured` (see `evaluation.Measurement`) and `guard`.
    """
    tokenizer = loaded.tokenizer
    written = [a for a in answers if a.visible]
    if not written:
        raise RequestError("no answer has visible text", remedy="raise the token limits or use a better model")
    rows = [exchange(tokenizer, a.prompt, [*a.hidden, *a.visible]) for a in written]
    measured = measure(loaded.strong, loaded.weak, tokenizer, rows, sampling)
    texts = [(a.prompt, a.text) for a in written]
    token_count = measured.token_count
    byte_count = sum(len(text.encode()) for _, text in texts)
    table = [
        (row.name, row.bits, row.note)
        for row in baselines.measure(texts, [len(a.visible) for a in written], tokenizer.vocabulary_size)
    ]
    ideal = "ideal code length: no coder, no framing"
    table.append(("weak_model", math.ceil(measured.weak_bits * token_count), f"-log2 W of every token; {ideal}"))
    result = {
        "tokens": token_count,
        "hidden_tokens": sum(len(a.hidden) for a in answers),
        "bytes": byte_count,
        "weights_bytes": pair.strong.weights_bytes,
        "measured": asdict(measured),
        "guard": guarded(answers, tokenizer.end),
    }
    return {**result, "rows": [cost_row(result, name, bits, note) for name, bits, note in table]}


def cost_row(costs: Mapping[str, Any], name: str, bits: int, note: str) -> dict[str, Any]:
    """Return a row of `upload_costs`: what so many bits are a token, a byte of text and of the weights."""
    return {
        "name": name,
        "bits": bits,
        "bits_per_token": bits / costs["tokens"],
        "bits_per_byte": bits / max(costs["bytes"], 1),
        "upload_over_weights": bits / 8 / costs["weights_bytes"],
        "note": note,
    }


def guarded(answers: Sequence[Answer], end: int) -> dict[str, Any]:
    """Return what the degeneracy guard says of the answers, with `verdict` and `reasons`."""
    truncated = sum(a.finish is Finish.LENGTH for a in answers)
    tokens = [[token for token in a.visible if token != end] for a in answers]
    result = guard.examine(tokens, [a.text for a in answers], truncated_count=truncated)
    return {**asdict(result), "verdict": result.verdict, "reasons": list(result.reasons)}

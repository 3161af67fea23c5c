"""The Hugging Face engine against whole forward passes, through admissions, releases and uneven steps."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bitweir_compression.sampling import SamplingSpec
from bitweir_services.engines.hf import HuggingFaceEngine
from bitweir_services.engines.requests import FinishEvent, GenerationRequest
from bitweir_services.engines.scheduler import Scheduler, Vocabulary
from bitweir_services.errors import EngineError


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3, generator=generator)
    return model.eval()


def whole(model: LlamaForCausalLM, tokens: list[int]) -> np.ndarray:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens])).logits[0, -1].numpy()


def test_logits_equal_whole_forward_passes_whatever_joins_and_leaves(model: LlamaForCausalLM) -> None:
    random = np.random.default_rng(1)
    engine = HuggingFaceEngine(model, slot_count=5)
    texts: dict[int, list[int]] = {}
    compared = 0
    for _ in range(60):
        free = [slot for slot in range(5) if slot not in texts]
        if free and random.random() < 0.5:
            slot = int(random.choice(free))
            texts[slot] = random.integers(0, 97, random.integers(1, 20)).tolist()
            engine.admit(slot, texts[slot])
        if texts and random.random() < 0.15:
            slot = int(random.choice(list(texts)))
            engine.release(slot)
            del texts[slot]
        stepped = [slot for slot in texts if random.random() < 0.8]
        random.shuffle(stepped)
        for slot, row in zip(stepped, engine.step(stepped), strict=True):
            assert np.abs(row - whole(model, texts[slot])).max() < 1e-4
            compared += 1
        tokens = {slot: int(random.integers(97)) for slot in stepped}
        engine.commit(tokens)
        for slot, token in tokens.items():
            texts[slot].append(token)
    assert compared > 80


def test_same_key_same_tokens_in_any_batch_and_order(model: LlamaForCausalLM) -> None:
    prompts = [tuple(np.random.default_rng(i).integers(5, 97, 3 + i % 9).tolist()) for i in range(12)]

    def tokens(slot_count: int, order: list[int]) -> dict[int, tuple[int, ...]]:
        runner = Scheduler(HuggingFaceEngine(model, slot_count=slot_count), Vocabulary(end=2, decode=str))
        number_of = {}
        for index in order:
            sampling = SamplingSpec(temperature=(0, 0.7, 1.0)[index % 3], top_p=0.95)
            request = GenerationRequest(
                prompts[index], key=index.to_bytes(32, "little"), sampling=sampling, visible_tokens_max=24
            )
            number_of[runner.submit(request)] = index
        return {number_of[e.request]: e.visible for e in runner.run() if isinstance(e, FinishEvent)}

    expected = tokens(1, list(range(12)))
    assert len(set(expected.values())) == 12
    assert tokens(12, list(range(12))) == expected
    assert tokens(5, list(reversed(range(12)))) == expected


def test_a_step_over_all_sequences_copies_no_rows(model: LlamaForCausalLM) -> None:
    engine = HuggingFaceEngine(model, slot_count=4)
    for slot in (2, 0, 3, 1):
        engine.admit(slot, [slot + 1, 5])
    engine.release(0)
    engine.step([1, 2, 3])
    assert engine._cache.is_prefix
    engine.commit({1: 4, 2: 4, 3: 4})
    engine.step([1])
    assert not engine._cache.is_prefix


def test_a_full_context_and_an_empty_step(model: LlamaForCausalLM) -> None:
    engine = HuggingFaceEngine(model, slot_count=1)
    assert engine.step([]).shape == (0, 97)
    engine.admit(0, [1] * 64)
    with pytest.raises(EngineError, match="is full"):
        engine.step([0])
    with pytest.raises(EngineError, match="prompt of 65 tokens"):
        HuggingFaceEngine(model, slot_count=1).admit(0, [1] * 65)

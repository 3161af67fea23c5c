"""The scripted engine writes its script, improvises repeatably, and loses to noise as often as it says."""

import numpy as np

from bitweir_services.engines.scripted import ScriptedEngine


def write(engine: ScriptedEngine, prompt: list, count: int) -> list[int]:
    engine.admit(0, prompt)
    tokens = []
    for _ in range(count):
        token = int(engine.step([0]).argmax())
        engine.commit({0: token})
        tokens.append(token)
    engine.release(0)
    return tokens


def test_script_then_end_for_ever() -> None:
    engine = ScriptedEngine({(1, 4): [5, 6]}, vocabulary_size=9)
    assert write(engine, [1, 4], 4) == [5, 6, 2, 2]


def test_improvisation_depends_on_the_prompt_alone() -> None:
    first, again, other = (
        write(ScriptedEngine({}, vocabulary_size=500), prompt, 20) for prompt in ([1, 4], [1, 4], [1, 5])
    )
    assert first == again != other
    assert first[-1] == 2


def test_sharpness_is_the_lead_of_the_scripted_token() -> None:
    soft = ScriptedEngine({(1,): [5]}, vocabulary_size=9, sharpness=2.5)
    soft.admit(0, [1])
    logits = soft.step([0])
    assert logits.dtype == np.float32
    assert logits.shape == (1, 9)
    assert sorted(logits[0].tolist()) == [-2.5] * 8 + [0.0]

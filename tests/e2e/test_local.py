"""The link on one machine with the tiny pair: questions over HTTP, answers through a gate, meters that agree."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bitweir_compression.models.exact_weak import open_exact_weak
from bitweir_metering import status
from bitweir_metering.ledger import verify
from bitweir_services.topology.local import LocalTopology
from tests.e2e.pair import needs_pair, tiny_pair

pytestmark = [pytest.mark.system, needs_pair]
QUESTIONS = [f"What is {number} + {number * 7 % 31}?" for number in range(12)]


def post(api: tuple[str, int], path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    """Ask; return status and document."""
    connection = http.client.HTTPConnection(*api, timeout=120)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    found = response.status, json.loads(response.read())
    connection.close()
    return found


def ask(api: tuple[str, int], question: str, *, expected: int = 200, **body: Any) -> dict[str, Any]:
    """One chat completion."""
    messages = [{"role": "user", "content": question}]
    status_code, document = post(api, "/v1/chat/completions", model="bitweir", messages=messages, max_tokens=40, **body)
    assert status_code == expected, document
    return document


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_questions_are_answered_through_a_gate_and_every_meter_agrees(repository_root: Path, tmp_path: Path) -> None:
    pair = tiny_pair(repository_root)
    open_exact_weak(pair)
    models = pair.strong.folder.parent
    with LocalTopology(tmp_path / "run", models, pair.strong.weights_bytes, silence_s=15) as topology:
        with ThreadPoolExecutor(len(QUESTIONS)) as pool:
            answers = list(pool.map(lambda question: ask(topology.api, question, seed=1), QUESTIONS))
        assert all(answer["usage"]["completion_tokens"] > 0 for answer in answers)
        assert all(answer["bitweir"]["wire_bits"] > 0 for answer in answers)
        # The same seed gives the same answer, alone or among others.
        assert text_of(ask(topology.api, QUESTIONS[3], seed=1)) == text_of(answers[3])
        found = status.read(topology.status_path)
        topology.check()
        # Without its gate the link says that it is down, and what is open ends.
        topology.kill("gate")
        assert "error" in ask(topology.api, "Hello?", expected=503)
    assert found.verdict == "permit"
    assert found.mismatch_bytes == 0
    report = verify(topology.ledger_path)
    assert report.ok
    counted = {name: meter.l2_bytes for name, meter in found.meters.items() if meter is not None}
    assert len(counted) == 2
    assert len(set(counted.values())) == 1
    assert report.totals.wire_bits >= 8 * counted["application"] > 0
    assert sum(answer["bitweir"]["wire_bits"] for answer in answers) <= report.totals.wire_bits

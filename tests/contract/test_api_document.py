"""docs/reference/api.md says what the API does: its commands run as they stand, and its tables leave nothing out."""

import asyncio
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from bitweir_services.api_keys import ApiKeys
from bitweir_services.api_metrics import ApiMetrics
from bitweir_services.api_requests import UNSUPPORTED_CHAT, UNSUPPORTED_COMPLETION, ChatBody, CompletionBody
from tests.unit.services.running_api import listening
from tests.unit.services.scripted_answering import ScriptedAnswering

BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
CODE = re.compile(r'(?:code=|: )"([a-z]+_[a-z_]+)"')


@pytest.fixture
def document(repository_root: Path) -> str:
    return (repository_root / "docs/reference/api.md").read_text()


@pytest.mark.parametrize("command", ["curl", "openssl"])
def test_the_commands_run_as_they_stand(document: str, command: str, tmp_path: Path) -> None:
    if shutil.which(command) is None:
        pytest.skip(f"needs {command}")
    settings, *examples = [block for block in BLOCK.findall(document) if "openssl" not in block]
    (make_key,) = [block for block in BLOCK.findall(document) if "openssl" in block]

    def shell(script: str) -> str:
        result = subprocess.run(
            ["bash", "-euc", script],
            cwd=tmp_path,
            env={**os.environ, "no_proxy": "127.0.0.1"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    if command == "openssl":
        key = shell(make_key).strip()
        path = tmp_path / "api.keys"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert ApiKeys.read(path).name_of(key) == "alice"
        assert key not in path.read_text()
        return

    async def run() -> list[str]:
        async with listening(ScriptedAnswering(model="bitweir")) as port:
            here = settings.replace("8000", str(port))
            assert here != settings
            return [
                await asyncio.to_thread(shell, here + example.replace("curl ", "curl -sSf ")) for example in examples
            ]

    chat, completion, others = asyncio.run(run())
    assert '"chat.completion"' in chat
    assert completion.endswith("data: [DONE]\n\n")
    assert '"status":"up"' in others
    assert '"owned_by"' in others


def test_every_field_is_described(document: str) -> None:
    fields = {*ChatBody.model_fields, *CompletionBody.model_fields, *UNSUPPORTED_CHAT, *UNSUPPORTED_COMPLETION}
    missing = [field for field in sorted(fields) if f"`{field}`" not in document]
    assert not missing


def test_every_code_is_in_the_table(document: str, repository_root: Path) -> None:
    codes = set()
    for name in ("api", "api_errors", "api_requests"):
        source = (repository_root / f"services/bitweir_services/{name}.py").read_text()
        codes |= {code for code in CODE.findall(source) if not code.endswith("_error") or code == "internal_error"}
    assert {"link_down", "unknown_url", "missing_required_parameter"} <= codes
    assert not [code for code in sorted(codes) if f"`{code}`" not in document]


def test_every_metric_is_in_the_table(document: str) -> None:
    families = list(ApiMetrics(ScriptedAnswering()).registry.collect())
    assert len(families) == 9
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"`{name}" in document

"""`bitweir ledger`: what it prints, its exit codes, and mistakes that end in one line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bitweir_loadgen.cli import main
from bitweir_metering import ledger_commands, ledger_file
from bitweir_metering import policy as policies
from bitweir_metering.ledger import verify
from tests.unit.metering.example_ledger import copied, created, filled, model, place, tampered
from tests.unit.metering.example_policy import signed, toml


def ran(*words: object) -> Result:
    return CliRunner().invoke(ledger_commands.ledger, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "link.ledger"
    filled(path).close()
    return path


def test_create_starts_a_ledger_with_its_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_file, "FILESYSTEMS", ledger_file.FILESYSTEMS | {place(tmp_path)})
    policy, path = tmp_path / "policy.toml", tmp_path / "link.ledger"
    policy.write_bytes(toml())
    document = policies.parse(toml())
    policies.signatures_path(policy).write_bytes(policies.format_signatures(signed(document, 0, 1)))
    result = ran("create", path, "--policy", policy)
    assert result.exit_code == 0, result.output
    assert "lineage        example" in result.stdout
    assert "limit          8000000000 bits (1 GB)" in result.stdout
    assert verify(path).policy == document


def test_show_prints_what_is_reserved(sound: Path) -> None:
    result = ran("show", sound)
    assert result.exit_code == 0
    assert "entry count    16" in result.stdout
    assert "reserved       17129 bits (2.14 kB)" in result.stdout
    assert "crash loss     5000 bits" in result.stdout
    assert "  timing       100 bits on the wire, 100 of information" in result.stdout
    document = json.loads(ran("show", sound, "--json").stdout)
    assert document["reserved_bits"] == sum(document["wire_bits"].values()) == 17129
    assert document["entry_hash"] == verify(sound).head.entry_hash.hex()
    assert (document["ok"], document["problems"], document["policy_serial"]) == (True, [], 2)


def test_verify_exits_with_0_on_a_sound_ledger_only(sound: Path, tmp_path: Path) -> None:
    result = ran("verify", sound)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "entry count    16" in result.stdout
    path = copied(sound, tmp_path)
    with tampered(path) as connection:
        connection.execute("UPDATE entry SET wire_bits = 9 WHERE sequence = 2")
    result = ran("verify", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["entry 2"]
    result = ran("verify", path, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["problems"]
    for other in (tmp_path / "missing", tmp_path):
        result = ran("verify", other)
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1
    document = json.loads(ran("verify", tmp_path / "missing", "--json").stdout)
    assert (document["lineage"], document["limit_bits"], document["ok"]) == (None, None, False)


def test_a_ledger_in_use_is_not_called_sound(tmp_path: Path) -> None:
    with created(tmp_path / "link.ledger") as ledger:
        ledger.reserve([model()])
        result = ran("verify", tmp_path / "link.ledger")
    assert (result.exit_code, result.stderr) == (1, "it is open elsewhere\n")


def test_export_prints_each_entry_as_a_line(sound: Path) -> None:
    result = ran("export", sound)
    assert result.exit_code == 0
    assert [json.loads(line)["sequence"] for line in result.stdout.splitlines()] == list(range(16))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "missing"), "there is no ledger at missing"),
        (("export", "missing"), "there is no ledger at missing"),
        (("create", "new.ledger", "--policy", "missing.toml"), "missing.toml"),
        (("create", "new.ledger", "--policy", "policy.toml"), "0 valid signatures"),
        (("create", "below/nothing/new.ledger", "--policy", "policy.toml"), "cannot tell"),
    ],
    ids=" ".join,
)
def test_mistakes_end_in_one_line(
    tmp_path: Path,
    words: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ledger_file, "FILESYSTEMS", ledger_file.FILESYSTEMS | {place(tmp_path)})
    (tmp_path / "policy.toml").write_bytes(toml())
    with pytest.raises(SystemExit) as caught:
        main(["ledger", *words])
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "new.ledger").exists()

"""`bitweir gate propose, sign, reset`: how people take a tripped link up again, and what they are told if not."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from typer.testing import CliRunner

from bitweir_loadgen.cli import main
from bitweir_metering import gate_commands, ledger_file, resets
from bitweir_metering.errors import PolicyError
from bitweir_metering.ledger import verify
from bitweir_metering.policy import Quorum, format_signatures, parse_signatures, signatures_path
from tests.unit.metering.example_ledger import created, model, names, opened, place, small_policy, tampered
from tests.unit.metering.example_policy import PRIVATE, PUBLIC


def gate(*words: object) -> str:
    result = CliRunner().invoke(gate_commands.gate, [str(word) for word in words], catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def write_key(path: Path, number: int) -> None:
    """The key file of a person of example_policy.py."""
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(PRIVATE[number].private_bytes(*form))
    path.chmod(0o600)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tripped ledger and the key files of five people; three of them are signers."""
    monkeypatch.setattr(ledger_file, "FILESYSTEMS", ledger_file.FILESYSTEMS | {place(tmp_path)})
    monkeypatch.chdir(tmp_path)
    with created(tmp_path / "link.ledger") as ledger:
        ledger.reserve([model()])
        ledger.trip("reconcile: drops")
    for number in range(5):
        write_key(tmp_path / f"{number}.pem", number)
    return tmp_path


def proposed(folder: Path) -> Path:
    gate("propose", folder / "link.ledger", folder / "reset.json", "--reason", "a cable was loose")
    return folder / "reset.json"


def test_people_take_a_tripped_link_up_again(folder: Path) -> None:
    ledger, file = folder / "link.ledger", folder / "reset.json"
    trip = verify(ledger).trip
    assert trip is not None
    said = gate("propose", ledger, file, "--reason", "a cable was loose")
    assert said == f"tripped by entry 2: reconcile: drops\n2 signers have to sign {file}: bitweir gate sign\n"
    assert json.loads(file.read_bytes()) == {
        "lineage": "example",
        "link": "inner-outer",
        "reason": "a cable was loose",
        "sequence": 2,
        "trip_hash": trip.entry_hash.hex(),
    }
    for number in (2, 0):
        said = gate("sign", file, "--key", folder / f"{number}.pem")
        assert said == (
            f"signed with {PUBLIC[number].hex()}: example, inner-outer may go on after entry 2\n"
            "reason: a cable was loose\n"
        )
    assert set(parse_signatures(signatures_path(file).read_bytes())) == {PUBLIC[0], PUBLIC[2]}
    assert gate("reset", ledger, file) == "entry 3: the link may go on\n"
    report = verify(ledger)
    assert (report.ok, report.trip, report.entry_count) == (True, None, 4)
    with opened(ledger) as again:
        assert again.tripped is None
        again.reserve([model()])
    assert "reset.json.partial" not in names(folder)


def test_the_reset_stays_in_the_ledger(folder: Path) -> None:
    file = proposed(folder)
    for number in (0, 1):
        gate("sign", file, "--key", folder / f"{number}.pem")
    gate("reset", folder / "link.ledger", file)
    entries = [json.loads(line) for line in ledger_file.export(folder / "link.ledger")]
    assert [entry["kind"] for entry in entries] == ["policy", "reserve", "trip", "reset"]
    assert b"a cable was loose" in bytes.fromhex(entries[-1]["note"])


def test_signing_keeps_signatures_of_this_reset_only(folder: Path) -> None:
    file = proposed(folder)
    reset = resets.parse(file.read_bytes())
    others = {PUBLIC[1]: PRIVATE[1].sign(b"something else"), PUBLIC[2]: PRIVATE[2].sign(reset.message())}
    signatures_path(file).write_bytes(format_signatures(others))
    gate("sign", file, "--key", folder / "0.pem")
    assert set(parse_signatures(signatures_path(file).read_bytes())) == {PUBLIC[0], PUBLIC[2]}
    gate("sign", file, "--key", folder / "0.pem")
    assert set(parse_signatures(signatures_path(file).read_bytes())) == {PUBLIC[0], PUBLIC[2]}


def contents(folder: Path) -> dict[str, bytes]:
    """All files but SQLite's own, which come and go with whoever opens the ledger."""
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {path.name: path.read_bytes() for path in files}


def refusal(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that is refused, in one line and with no file changed; return the line."""
    capsys.readouterr()
    before = contents(folder)
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert contents(folder) == before
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("bitweir: ")
    assert "; " in captured.err
    return captured.err


@pytest.mark.parametrize("numbers", [(), (0,), (0, 3), (3, 4), (0, 4, 3)], ids=str)
def test_too_few_signers_change_nothing(
    folder: Path, numbers: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    file = proposed(folder)
    for number in numbers:
        gate("sign", file, "--key", folder / f"{number}.pem")
    said = refusal(folder, capsys, "gate", "reset", "link.ledger", "reset.json")
    assert f"{len({0} & set(numbers))} valid signatures of the 2" in said
    assert verify(folder / "link.ledger").trip is not None


def test_a_reset_that_was_changed_after_it_was_signed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = proposed(folder)
    for number in (0, 1):
        gate("sign", file, "--key", folder / f"{number}.pem")
    file.write_bytes(file.read_bytes().replace(b"a cable was loose", b"no reason at all"))
    assert "0 valid signatures" in refusal(folder, capsys, "gate", "reset", "link.ledger", "reset.json")
    file.write_bytes(file.read_bytes() + b"\n")
    assert "not in its canonical form" in refusal(folder, capsys, "gate", "reset", "link.ledger", "reset.json")


def test_a_reset_of_the_trip_before(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = proposed(folder)
    for number in (0, 1):
        gate("sign", file, "--key", folder / f"{number}.pem")
    gate("reset", folder / "link.ledger", file)
    assert "a reset without its trip" in refusal(folder, capsys, "gate", "reset", "link.ledger", "reset.json")
    with opened(folder / "link.ledger") as ledger:
        ledger.trip("reconcile: drops")
    assert "a reset without its trip" in refusal(folder, capsys, "gate", "reset", "link.ledger", "reset.json")


def test_a_ledger_that_is_not_tripped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = small_policy(signers=Quorum(2, tuple(PUBLIC[:3])))
    created(folder / "fine.ledger", document).close()
    words = ("gate", "propose", "fine.ledger", "new.json", "--reason", "why not")
    assert "fine.ledger is not tripped" in refusal(folder, capsys, *words)


def test_a_ledger_that_is_not_sound(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tampered(folder / "link.ledger") as connection:
        connection.execute("UPDATE entry SET wire_bits = 9 WHERE sequence = 1")
    words = ("gate", "propose", "link.ledger", "new.json", "--reason", "why not")
    assert "entry 1: " in refusal(folder, capsys, *words)


def test_a_ledger_in_use(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = proposed(folder)
    for number in (0, 1):
        gate("sign", file, "--key", folder / f"{number}.pem")
    with opened(folder / "link.ledger"):
        for words in (("propose", "link.ledger", "new.json", "--reason", "x"), ("reset", "link.ledger", "reset.json")):
            capsys.readouterr()
            with pytest.raises(SystemExit) as caught:
                main(["gate", *words])
            assert caught.value.code == 2
            assert "open elsewhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("propose", "missing", "new.json", "--reason", "x"), "there is no ledger at missing"),
        (("propose", "link.ledger", "reset.json", "--reason", "x"), "reset.json exists"),
        (("propose", "link.ledger", "new.json", "--reason", ""), "a reason ''"),
        (("propose", "link.ledger", "new.json", "--reason", "x" * 201), "a reason 'xxx"),
        (("propose", "link.ledger", "new.json", "--reason", "two\nlines"), "a reason 'two"),
        (("propose", "link.ledger", "below/new.json", "--reason", "x"), "cannot write"),
        (("sign", "missing.json", "--key", "0.pem"), "cannot read missing.json"),
        (("sign", "link.ledger", "--key", "0.pem"), "longer than 1024 bytes"),
        (("sign", "0.pem", "--key", "0.pem"), "not JSON"),
        (("sign", "reset.json", "--key", "missing.pem"), "cannot read missing.pem"),
        (("sign", "reset.json", "--key", "reset.json"), "others may open reset.json"),
        (("reset", "missing", "reset.json"), "there is no ledger at"),
        (("reset", "link.ledger", "missing.json"), "cannot read missing.json"),
        (("reset", "link.ledger", "0.pem"), "not JSON"),
    ],
    ids=lambda words: " ".join(words)[:40] if isinstance(words, tuple) else "",
)
def test_mistakes_end_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    proposed(folder).chmod(0o644)
    assert message in refusal(folder, capsys, "gate", *words)
    assert not (folder / "new.json").exists()


def test_damaged_signatures_are_no_signatures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = proposed(folder)
    for content in (b"", b"{}", b'{"signatures": {"00": "00"}}', b"x" * 20_000):
        signatures_path(file).write_bytes(content)
        for words in (("sign", "reset.json", "--key", "0.pem"), ("reset", "link.ledger", "reset.json")):
            refusal(folder, capsys, "gate", *words)


def test_a_signature_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = proposed(folder)
    gate("sign", file, "--key", folder / "0.pem")
    before = signatures_path(file).read_bytes()

    def full(self: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PolicyError, match="No space left on device"):
        gate("sign", file, "--key", folder / "1.pem")
    assert signatures_path(file).read_bytes() == before

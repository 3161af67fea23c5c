"""`bitweir keys` and `bitweir policy`: what they print and write, and mistakes that end in one line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bitweir_loadgen.cli import main
from bitweir_metering import commands, keys, policy_view
from bitweir_metering import policy as policies
from bitweir_metering.policy import Policy
from tests.unit.metering.example_policy import DOCUMENT, PUBLIC, policy, signed, toml


def ran(app: object, *words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "link.toml"
    path.write_bytes(toml())
    return path


def write_keys(folder: Path) -> list[str]:
    """Make three key files and return their public keys."""
    return [ran(commands.keys, "new", folder / f"{number}.pem").stdout.strip() for number in range(3)]


def test_new_and_shown_keys_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "alice.pem"
    public = ran(commands.keys, "new", path).stdout
    assert public == keys.public_key(keys.load(path)).hex() + "\n"
    assert ran(commands.keys, "show", path).stdout == public
    shown = json.loads(ran(commands.keys, "show", path, "--json").stdout)
    assert shown == {"file": str(path), "public_key": public.strip()}
    made = json.loads(ran(commands.keys, "new", tmp_path / "bob.pem", "--json").stdout)
    assert made["public_key"] == ran(commands.keys, "show", tmp_path / "bob.pem").stdout.strip()


def test_people_sign_one_after_another(tmp_path: Path, file: Path) -> None:
    public = write_keys(tmp_path)
    file.write_bytes(toml(signers={"threshold": 2, "keys": public}))
    made = policies.read(file)[0]
    shown = json.loads(ran(commands.policy, "show", file, "--json").stdout)
    assert (shown["signed"], shown["signed_by"]) == (False, [])
    for number in (2, 0):
        result = ran(commands.policy, "sign", file, "--key", tmp_path / f"{number}.pem")
        assert result.stdout == f"signed policy {made.digest().hex()}, serial 1, with {public[number]}\n"
        assert result.stderr == ""
    policies.check_signed(*policies.read(file), None)
    shown = json.loads(ran(commands.policy, "show", file, "--json").stdout)
    assert (shown["signed"], shown["missing"]) == (True, [])
    assert shown["signed_by"] == sorted([public[0], public[2]])
    assert {path.suffix for path in tmp_path.iterdir()} == {".pem", ".toml", ".signatures"}


def test_signing_after_an_edit_removes_what_no_longer_fits(tmp_path: Path, file: Path) -> None:
    public = write_keys(tmp_path)
    signers = {"threshold": 1, "keys": public[:2]}
    file.write_bytes(toml(signers=signers))
    for number in (0, 1):
        ran(commands.policy, "sign", file, "--key", tmp_path / f"{number}.pem")
    file.write_bytes(toml(signers=signers, resends_max=4))
    shown = json.loads(ran(commands.policy, "show", file, "--json").stdout)
    assert (shown["signed"], shown["signed_by"]) == (False, [])
    assert shown["signatures_of_something_else"] == sorted(public[:2])
    result = ran(commands.policy, "sign", file, "--key", tmp_path / "0.pem")
    assert result.stderr == f"removed the signature of {public[1]}: it is not of this policy\n"
    assert [key.hex() for key in policies.read(file)[1]] == [public[0]]
    # A signature of the same policy by somebody else stays.
    ran(commands.policy, "sign", file, "--key", tmp_path / "1.pem")
    assert {key.hex() for key in policies.read(file)[1]} == set(public[:2])


def test_what_is_removed_is_named_in_order(file: Path, tmp_path: Path) -> None:
    write_keys(tmp_path)
    stale = {bytes([number]) * 32: bytes(64) for number in range(30, 0, -1)}
    policies.signatures_path(file).write_bytes(policies.format_signatures(stale))
    shown = json.loads(ran(commands.policy, "show", file, "--json").stdout)
    assert shown["signatures_of_something_else"] == sorted(key.hex() for key in stale)
    result = ran(commands.policy, "sign", file, "--key", tmp_path / "0.pem")
    named = [line.split()[4].rstrip(":") for line in result.stderr.splitlines() if line.startswith("removed")]
    assert named == sorted(key.hex() for key in stale)


def test_signing_with_a_key_that_the_policy_does_not_name(tmp_path: Path, file: Path) -> None:
    write_keys(tmp_path)
    result = ran(commands.policy, "sign", file, "--key", tmp_path / "0.pem")
    assert result.stderr.startswith("this key is none of the policy's own signers")


def test_a_signature_that_cannot_be_written_leaves_the_old_ones(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_keys(tmp_path)
    ran(commands.policy, "sign", file, "--key", tmp_path / "0.pem")
    before = policies.signatures_path(file).read_bytes()

    def full(self: Path, content: bytes) -> None:
        with self.open("wb") as half:
            half.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(policies.PolicyError, match="No space left on device") as caught:
        ran(commands.policy, "sign", file, "--key", tmp_path / "1.pem")
    assert caught.value.remedy
    assert policies.signatures_path(file).read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_everything_of_a_policy_is_shown(file: Path) -> None:
    document = json.loads(ran(commands.policy, "show", file, "--json").stdout)
    assert document["digest"] == policy().digest().hex()
    assert document["policy"] == json.loads(policy().canonical())
    assert document["weights_bytes"] == 10**12
    assert document["days_to_limit"] == pytest.approx(8 * 10**9 / 10**6 / 86_400)
    rows = document["compressions"]
    assert [row["compression"] for row in rows] == [1, 16, 100]
    assert [row["limit_over_weights"] for row in rows] == pytest.approx([0.001, 0.016, 0.1])
    assert [row["weights_bytes"] for row in rows] == [10**12, 62_500_000_000, 10**10]
    assert [row["days_to_send"] for row in rows] == pytest.approx([92.59, 5.787, 0.9259], rel=1e-3)
    text = ran(commands.policy, "show", file).stdout
    for name, value in document["policy"].items():
        if isinstance(value, int) and not name.endswith("_ns"):
            assert f"{value:,}" in text, name
    for words in (
        document["digest"],
        "lineage example, link inner-outer, serial 1",
        "model stronger: 2,000,000,000,000 bytes of weights (2 TB)",
        "at most 400,000,000 bits (50 MB) of class control",
        "slots of 0.1 s",
        "permits of 1 s",
        "the limit lasts 0.0926 days; min_days 90",
        "100x smaller              10,000,000,000               0.1             0.926\n",
        "signers: 2 of 3",
        "witnesses: 1 of 1",
        "missing: 0 valid signatures of the 2 that policy serial 1 needs",
        *DOCUMENT["signers"]["keys"],
        *DOCUMENT["witnesses"]["keys"],
    ):
        assert words in text
    assert "signed by" not in text


def test_a_limit_that_holds_the_weights_is_said(file: Path) -> None:
    file.write_bytes(toml(limit="1/16 of weights"))
    lines = ran(commands.policy, "show", file).stdout.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("  within the limit")] == ["16x", "100x"]


def test_a_whole_number_of_bytes_is_never_less_than_the_share() -> None:
    rows = policy_view.document(policy(models={"m": 10**12 + 1}), {}, None)["compressions"]
    assert [row["weights_bytes"] for row in rows] == [10**12 + 1, 62_500_000_001, 10**10 + 1]


def shown_lines(document: Policy, signatures: policies.Signatures, before: Policy | None) -> str:
    return "\n".join(policy_view.lines(policy_view.document(document, signatures, before)))


def test_who_signed_and_what_is_missing() -> None:
    first, second = policy(), policy(serial=2)
    text = shown_lines(first, signed(first, 0, 1, 4), None)
    assert text.endswith("signed by enough of those who must")
    assert {line for line in text.splitlines() if line.startswith("signed by ")} == {
        *(f"signed by {PUBLIC[number].hex()}" for number in (0, 1, 4)),
        "signed by enough of those who must",
    }
    text = shown_lines(second, signed(second, 0, 1), None)
    assert text.endswith("missing: the policy of serial 1, whose signers must have signed this one: --before")
    assert shown_lines(second, signed(second, 0, 1), first).endswith("signed by enough of those who must")
    assert "missing: 1 valid signatures of the 2" in shown_lines(second, signed(second, 0), first)
    assert "missing: policy serial 1, expected 2" in shown_lines(first, signed(first, 0, 1), first)
    assert f"not of this policy: a signature of {PUBLIC[0].hex()}" in shown_lines(second, signed(first, 0), first)


def test_whose_signatures_count() -> None:
    first, second = policy(), policy(serial=2, signers=policies.Quorum(1, (PUBLIC[4],)))
    for shown, before, signers in ((first, None, first), (second, first, first), (second, None, None)):
        expected = None if signers is None else signers.signers.document()
        assert policy_view.document(shown, {}, before)["signers_that_count"] == expected


def test_the_policy_before_is_read_from_its_file(tmp_path: Path, file: Path) -> None:
    second = policy(serial=2)
    path = tmp_path / "next.toml"
    path.write_bytes(toml(serial=2))
    policies.signatures_path(path).write_bytes(policies.format_signatures(signed(second, 0, 1)))
    assert json.loads(ran(commands.policy, "show", path, "--before", file, "--json").stdout)["signed"] is True
    assert json.loads(ran(commands.policy, "show", path, "--json").stdout)["signed"] is False


def test_weights_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(3_000_000))
    result = ran(commands.policy, "weights", tmp_path, "--json")
    document = json.loads(result.stdout)
    assert document["size_bytes"] == 3_000_000
    assert 0 < document["compressed_bytes"] < 1_000_000
    assert document["file_count"] == 1
    assert "zlib" in document["method"]
    assert result.stderr.splitlines()[-1] == "read 3 MB of 3 MB"
    text = ran(commands.policy, "weights", tmp_path).stdout
    assert "3,000,000 bytes (3 MB)" in text
    assert f"{document['compressed_bytes']:,} bytes" in text


def test_progress_is_a_line_a_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    progress = commands._Tenths()
    for done in range(1, 1001):
        progress(done, 1000)
    assert len(capsys.readouterr().err.splitlines()) == 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("keys", "new", "link.toml"), "link.toml exists"),
        (("keys", "show", "missing.pem"), "cannot read missing.pem"),
        (("policy", "show", "missing.toml"), "cannot read missing.toml"),
        (("policy", "show", "broken.toml"), "the policy lacks burst"),
        (("policy", "show", "link.toml", "--before", "missing.toml"), "cannot read missing.toml"),
        (("policy", "sign", "link.toml", "--key", "missing.pem"), "cannot read missing.pem"),
        (("policy", "sign", "link.toml", "--key", "link.toml"), "others may open link.toml"),
        (("policy", "weights", "missing"), "no weights in missing"),
    ],
    ids=" ".join,
)
def test_mistakes_end_in_one_line(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(file.parent)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    Path("broken.toml").write_text("serial = 1\n")
    file.chmod(0o644)
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith(f"bitweir: {message}")
    assert "; " in captured.err

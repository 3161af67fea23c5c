"""The policy's file: what it must say, its canonical form, and that nothing else is read."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from bitweir_metering.errors import MeteringError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.policy import Policy, Quorum, check_signed, parse
from tests.unit.metering.example_policy import DOCUMENT, PUBLIC, policy, toml

ABOVE_ZERO = [
    *("serial", "limit_bits", "rate_bits_per_s", "burst_bits", "lease_bits", "slot_ns", "epoch_slots", "permit_ns"),
    "token_ceiling_bits",
]


def refused(content: bytes, message: str) -> None:
    with pytest.raises(MeteringError, match=message) as caught:
        parse(content)
    assert caught.value.remedy


def changed(table: str, **changes: Any) -> bytes:
    """Return the file with changes inside one table; a change to None leaves the field out."""
    inner = DOCUMENT[table] | changes
    return toml(**{table: {name: value for name, value in inner.items() if value is not None}})


def test_a_file_becomes_a_policy() -> None:
    assert parse(toml()) == policy()
    assert policy().weights_bytes == 10**12


def test_the_lease_is_a_second_of_the_rate_or_64_kib_unless_it_is_named() -> None:
    assert parse(toml()).lease_bits == 10**6
    assert parse(toml(rate="100 kbit/s")).lease_bits == 8 * 64 * 1024
    assert parse(toml(lease="2 kB")).lease_bits == 16_000


def test_a_limit_as_a_share_is_of_the_smallest_model_and_rounded_down() -> None:
    assert parse(toml(limit="1/1000 of weights")).limit_bits == 8 * 10**9
    assert parse(toml(limit="2/1999 of weights")).limit_bits == 16 * 10**12 // 1999
    assert parse(toml(limit="3/2 of weights")).limit_bits == 12 * 10**12


@pytest.mark.parametrize(
    "limit",
    ["0/5 of weights", "1/0 of weights", "1/1000 of  weights", "1/1000", "of weights", "-1/5 of weights", 5, True],
)
def test_a_limit_that_is_none(limit: object) -> None:
    refused(toml(limit=limit), "limit: .* is not a size")


def test_a_share_too_small_to_be_a_limit_or_too_large() -> None:
    refused(toml(limit="1/9999999999999999 of weights"), "limit_bits is 0")
    refused(toml(limit="9999999999/1 of weights"), "limit_bits is 79999999992000000000000, not an")


@pytest.mark.parametrize("name", list(DOCUMENT))
def test_a_field_that_is_missing(name: str) -> None:
    refused(toml(**{name: None}), f"the policy lacks {name}")


def test_all_missing_fields_are_named_and_the_first_unknown_one() -> None:
    refused(b"serial = 1", "lacks burst, class_limits, epoch_slots, limit, lineage, link, min_days, models, permit_ms")
    names = [f"x{number}" for number in range(40, 10, -1)]
    refused(toml(**dict.fromkeys(names, 1)), "has an unknown field 'x11'")


def test_a_file_of_the_largest_size() -> None:
    assert parse(toml().ljust(32_768)) == policy()
    refused(toml().ljust(32_769), "^longer than 32768 bytes$")


def test_a_file_without_models() -> None:
    refused(toml(models={}), "^0 models")
    refused(toml(models={}, limit="1/1000 of weights"), "^0 models")


def test_a_field_that_is_unknown() -> None:
    refused(toml(limits="1 GB"), "the policy has an unknown field 'limits'")
    refused(toml(limit_bits=5), "the policy has an unknown field 'limit_bits'")


@pytest.mark.parametrize("name", DOCUMENT["class_limits"])
def test_a_class_that_is_missing(name: str) -> None:
    refused(changed("class_limits", **{name: None}), rf"\[class_limits\] lacks {name}")


@pytest.mark.parametrize("table", ["class_limits", "signers", "witnesses"])
def test_an_unknown_field_of_a_table(table: str) -> None:
    refused(changed(table, ssh="1 MB"), rf"\[{table}\] has an unknown field 'ssh'")


@pytest.mark.parametrize("table", ["signers", "witnesses"])
@pytest.mark.parametrize("name", ["threshold", "keys"])
def test_a_field_of_a_quorum_that_is_missing(table: str, name: str) -> None:
    refused(changed(table, **{name: None}), rf"\[{table}\] lacks {name}")


@pytest.mark.parametrize("table", ["class_limits", "models", "signers", "witnesses"])
@pytest.mark.parametrize("value", [1, "x", [1]], ids=repr)
def test_a_table_that_is_none(table: str, value: object) -> None:
    refused(toml(**{table: value}), f"{table} is no table")


@pytest.mark.parametrize(
    ("name", "value"), [("burst", "10 Mbit/s"), ("lease", "12 bit"), ("rate", "1 MB"), ("rate", 5)]
)
def test_the_error_of_a_text_names_its_field(name: str, value: object) -> None:
    refused(toml(**{name: value}), f"^{name}: ")


def test_the_error_of_a_size_in_a_table_names_its_field() -> None:
    refused(changed("class_limits", tunnel=5), "^class_limits.tunnel: ")
    refused(changed("models", strong="big"), "^models.strong: ")
    refused(changed("models", strong=1.5), "^models.strong: ")


@pytest.mark.parametrize("name", ["serial", "min_days", "slot_ms", "epoch_slots", "permit_ms", "resends_max"])
@pytest.mark.parametrize("value", [True, -1, 1.0, "1", 1 << 62], ids=repr)
def test_an_integer_that_is_none(name: str, value: object) -> None:
    refused(toml(**{name: value}), f"^{name} is ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lacks burst, class_limits"),
        (b"limit = ", "not TOML"),
        (b'link = "\xff"', "not TOML"),
        (b"serial = 1\nserial = 2", "not TOML"),
        (b"serial = " + b"9" * 10_000, "not TOML"),
        (b"serial = " + b"[" * 20_000, "not TOML"),
        (b"#" * 32_769, "longer than 32768 bytes"),
        (b"{", "not JSON"),
        (b"{" + b'"a":{' * 5_000, "not JSON"),
        (b'{"a": 1}', "lacks burst_bits"),
        (b"{" + b" " * 32_768, "longer than 32768 bytes"),
    ],
)
def test_files_that_are_nothing(content: bytes, message: str) -> None:
    refused(content, message)


@given(st.integers(0, len(toml())), st.integers(0, 30), st.binary(max_size=30))
def test_any_damage_leaves_a_policy_or_an_error(start: int, cut: int, added: bytes) -> None:
    content = toml()
    try:
        assert isinstance(parse(content[:start] + added + content[start + cut :]), Policy)
    except MeteringError as error:
        assert error.remedy


def test_the_example_of_the_reference_is_a_policy_that_its_keys_can_sign(repository_root: Path) -> None:
    text = (repository_root / "docs" / "reference" / "policy.md").read_text()
    example = parse(re.search(r"```toml\n(.*?)```", text, re.DOTALL).group(1).encode())
    assert example.limit_bits == 8 * 10**9
    # RFC 8032, section 7.1: the secret keys of tests 1 and 2.
    secrets = (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
    )
    keys = [Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)) for secret in secrets]
    check_signed(example, {k.public_key().public_bytes_raw(): k.sign(example.message()) for k in keys}, None)
    fields = set(re.findall(r"`([a-z_]+)`", " ".join(re.findall(r"^\| (.*?) \|", text, re.MULTILINE))))
    assert fields == set(DOCUMENT) | {"lease"}


@pytest.mark.parametrize("keys", ["x", {}, 5], ids=repr)
def test_keys_of_a_file_that_are_no_list(keys: object) -> None:
    refused(changed("signers", keys=keys), "^signers.keys is no list$")


@pytest.mark.parametrize("keys", [[PUBLIC[0].hex().upper()], [" " + PUBLIC[0].hex()], [5], ["ab"]], ids=repr)
def test_keys_of_a_file_that_are_no_hexadecimal(keys: object) -> None:
    refused(changed("signers", keys=keys), "^a key of signers is ")


def test_a_placeholder_is_no_key() -> None:
    refused(changed("signers", keys=["0" * 64]), "^a key is no Ed25519 public key$")


# The canonical form.


def test_the_canonical_form_is_frozen() -> None:
    made = policy()
    document = json.loads(made.canonical())
    assert json.dumps(document, sort_keys=True, separators=(",", ":")).encode() == made.canonical()
    assert document["class_limits"]["tunnel"] == 0
    assert document["models"] == {"strong": 10**12, "stronger": 2 * 10**12}
    assert document["signers"] == {"keys": sorted(key.hex() for key in PUBLIC[:3]), "threshold": 2}
    assert made.digest().hex() == "9164f7b27ec00affb6f61f9cbb8c81d465a63e2f8deeb4adf4d93e90effdeac3"
    assert made.message() == b"bitweir policy v1\n" + made.canonical()


def test_spelling_and_order_of_a_file_do_not_change_the_digest() -> None:
    other = toml(
        limit="1/1000 of weights",
        rate="1000 kbit/s",
        lease="125 kB",
        models={"stronger": "2 TB", "strong": 10**12},
        signers={"threshold": 2, "keys": [PUBLIC[number].hex() for number in (2, 0, 1)]},
    )
    assert parse(b"# a remark\n" + other).digest() == policy().digest()


@pytest.mark.parametrize(
    "changes",
    [
        *({name: getattr(policy(), name) + 1} for name in (*ABOVE_ZERO, "resends_max")),
        {"min_days": 91},
        {"lineage": "other"},
        {"link": "other"},
        {"models": {"strong": 10**12}},
        {"models": {"strong": 10**12 + 1, "stronger": 2 * 10**12}},
        {"class_limits": {**policy().class_limits, TrafficClass.TUNNEL: 1}},
        {"signers": Quorum(1, tuple(PUBLIC[:3]))},
        {"signers": Quorum(2, tuple(PUBLIC[:2]))},
        {"witnesses": Quorum(1, (PUBLIC[4],))},
    ],
    ids="-".join,
)
def test_every_field_changes_the_digest(changes: dict) -> None:
    assert policy(**changes).digest() != policy().digest()
    assert parse(policy(**changes).canonical()) == policy(**changes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"serial":1', b'"serial": 1', "not its canonical form"),
        (b'"serial":1', b'"serial":1.0', "serial is 1.0"),
        (b'"serial":1', b'"serial":true', "serial is True"),
        (b'"serial":1', b'"serial":1,"serial":1', "named twice"),
        (b'"serial":1', b'"serial":1,"x":1', "unknown field 'x'"),
        (b'"serial":1,', b"", "lacks serial"),
        (b'"format":"bitweir-policy 1"', b'"format":"bitweir-policy 2"', "not its canonical form"),
        (b'"lineage":"example"', b'"lineage":"ex\\u0061mple"', "not its canonical form"),
        (b'"tunnel":0', b'"tunnel":0,"ssh":0', "unknown field 'ssh'"),
        (b'"threshold":2', b'"threshold":"2"', "threshold is '2'"),
        (b'"models":{', b'"models":[{', "not JSON"),
        (b"}", b"}\n", "not its canonical form"),
    ],
)
def test_other_json_than_the_canonical_form(old: bytes, new: bytes, message: str) -> None:
    content = policy().canonical()
    assert parse(content) == policy()
    assert old in content
    refused(content.replace(old, new), message)


def test_keys_in_another_order_are_not_canonical() -> None:
    content = policy().canonical()
    first, second = sorted(key.hex().encode() for key in PUBLIC[:2])
    swapped = content.replace(first, b"?").replace(second, first).replace(b"?", second)
    refused(swapped, "not its canonical form")

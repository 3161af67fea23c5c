"""Policies: what is in range, what fits together, who must have signed, and the files they are read from."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bitweir_metering import policy as policies
from bitweir_metering.errors import PolicyError, UnitError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.policy import Quorum, check_signed
from tests.unit.metering.example_policy import PRIVATE, PUBLIC, policy, signed, toml

NOT_AMOUNTS = [True, -1, 1.0, float("nan"), "1", None, 1 << 62]
FIELDS_ABOVE_ZERO = [
    *("serial", "limit_bits", "rate_bits_per_s", "burst_bits", "lease_bits", "slot_ns", "epoch_slots", "permit_ns"),
    "token_ceiling_bits",
]
FRAME_BITS = 8 * (1024 + 13 + 42)


# What a policy is.


@pytest.mark.parametrize("name", FIELDS_ABOVE_ZERO)
@pytest.mark.parametrize("value", [0, *NOT_AMOUNTS], ids=repr)
def test_a_field_that_is_not_above_zero(name: str, value: object) -> None:
    with pytest.raises(UnitError, match=f"^{name} is "):
        policy(**{name: value})


@pytest.mark.parametrize("name", ["min_days", "resends_max"])
@pytest.mark.parametrize("value", NOT_AMOUNTS, ids=repr)
def test_a_field_that_is_no_amount(name: str, value: object) -> None:
    assert getattr(policy(**{name: 0}), name) == 0
    with pytest.raises(UnitError, match=f"^{name} is "):
        policy(**{name: value})


@pytest.mark.parametrize("name", ["", "x" * 65, "Inner", "a b", "a_b", "a/b", "ä", "a\n", 5, None, b"a"], ids=repr)
def test_names(name: object) -> None:
    for changes in ({"lineage": name}, {"link": name}, {"models": {name: 10**12}}):
        with pytest.raises(PolicyError, match="is named"):
            policy(**changes)
    assert policy(lineage="x" * 64, link="a.b-0").link == "a.b-0"


@pytest.mark.parametrize("value", [0, *NOT_AMOUNTS, 1 << 59], ids=repr)
def test_weights_that_are_none(value: object) -> None:
    with pytest.raises(UnitError, match=r"^models\.strong"):
        policy(models={"strong": value})
    assert policy(models={"strong": (1 << 59) - 1}).weights_bytes == (1 << 59) - 1


def test_how_many_models_there_may_be() -> None:
    for count in (0, 65):
        with pytest.raises(PolicyError, match=f"^{count} models"):
            policy(models={f"m{number}": 10**12 for number in range(count)})
    assert len(policy(models={f"m{number}": 10**12 for number in range(64)}).models) == 64


@pytest.mark.parametrize("value", NOT_AMOUNTS, ids=repr)
def test_a_sub_cap_that_is_no_amount(value: object) -> None:
    with pytest.raises(UnitError, match=r"^class_limits\.control"):
        policy(class_limits={**policy().class_limits, TrafficClass.CONTROL: value})


def test_sub_caps_of_other_classes() -> None:
    limits = dict(policy().class_limits)
    del limits[TrafficClass.TUNNEL]
    for wrong in (limits, {**policy().class_limits, 5: 1}, {}):
        with pytest.raises(PolicyError, match="class_limits of other classes"):
            policy(class_limits=wrong)


def test_nothing_of_a_policy_can_be_changed() -> None:
    models, made = {"strong": 10**12}, policy()
    made = policy(models=models)
    models["strong"] = 1
    assert made.weights_bytes == 10**12
    for mapping in (made.models, made.class_limits):
        with pytest.raises(TypeError):
            mapping["strong"] = 1
    with pytest.raises(AttributeError):
        made.limit_bits = 1


# What fits together.


@pytest.mark.parametrize("kind", TrafficClass)
def test_a_sub_cap_above_the_limit(kind: TrafficClass) -> None:
    limits, limit_bits = policy().class_limits, policy().limit_bits
    assert policy(class_limits={**limits, kind: limit_bits}).class_limits[kind] == limit_bits
    with pytest.raises(
        PolicyError, match=f"class_limits.{kind.name.lower()} is {limit_bits + 1} bits, above the limit"
    ):
        policy(class_limits={**limits, kind: limit_bits + 1})


def test_a_lease_above_the_limit() -> None:
    assert policy(lease_bits=8 * 10**9).lease_bits == 8 * 10**9
    with pytest.raises(PolicyError, match="a lease of 8000000001 bits, above the limit"):
        policy(lease_bits=8 * 10**9 + 1)


@pytest.mark.parametrize("name", ["burst_bits", "lease_bits"])
def test_what_no_largest_frame_fits(name: str) -> None:
    assert policies.FRAME_BITS_MAX == FRAME_BITS
    assert getattr(policy(**{name: FRAME_BITS}), name) == FRAME_BITS
    with pytest.raises(PolicyError, match=f"{name} is {FRAME_BITS - 1}, below one frame") as caught:
        policy(**{name: FRAME_BITS - 1})
    assert caught.value.remedy == "give at least 1079 B"


def test_an_epoch_that_its_sub_cap_does_not_hold() -> None:
    assert policy(epoch_slots=8 * 10**8).epoch_slots == 8 * 10**8
    with pytest.raises(PolicyError, match="an epoch charges 800000001 bits of timing"):
        policy(epoch_slots=8 * 10**8 + 1)


def test_a_permit_that_would_be_none() -> None:
    assert policy(permit_ns=10**10).permit_ns == 10**10
    with pytest.raises(PolicyError, match="a permit of 10000000001 ns"):
        policy(permit_ns=10**10 + 1)


def test_resends_without_end() -> None:
    assert policy(resends_max=255).resends_max == 255
    with pytest.raises(PolicyError, match="256 resends"):
        policy(resends_max=256)


def test_weights_that_leave_before_min_days() -> None:
    burst_bits = policy().burst_bits
    exact = (90 * 86_400 * 10**6 + burst_bits) // 8
    assert policy(models={"strong": exact}).weights_bytes == exact
    with pytest.raises(PolicyError, match=r"bytes of weights take 90 days .*; min_days is 90"):
        policy(models={"strong": exact - 1})
    with pytest.raises(PolicyError, match="bytes of weights take"):
        policy(models={"strong": exact - 1, "stronger": 10**15})
    # Without min_days the burst alone must still not hold them.
    assert policy(models={"s": burst_bits // 8}, min_days=0).weights_bytes == burst_bits // 8
    with pytest.raises(PolicyError, match="take 0 days"):
        policy(models={"s": burst_bits // 8 - 1}, min_days=0)


def test_days_to_send() -> None:
    made = policy(burst_bits=10**6)
    assert made.days_to_send() == pytest.approx((8 * 10**12 - 10**6) / 10**6 / 86_400)
    assert made.days_to_send(100) == pytest.approx((8 * 10**10 - 10**6) / 10**6 / 86_400)
    assert made.days_to_send(10**7) == 0


# Quora.


def test_the_order_of_keys_says_nothing() -> None:
    assert Quorum(1, (PUBLIC[0], PUBLIC[1])) == Quorum(1, (PUBLIC[1], PUBLIC[0]))


@pytest.mark.parametrize(
    ("threshold", "numbers"), [(1, []), (3, [0, 1]), (1, [0, 0]), (2, [0, 0]), (2, [0, 1, 0])], ids=repr
)
def test_quora_that_are_none(threshold: int, numbers: list[int]) -> None:
    with pytest.raises(PolicyError, match=f"{threshold} of {len(numbers)} keys, {len(set(numbers))} of them"):
        Quorum(threshold, tuple(PUBLIC[number] for number in numbers))


@pytest.mark.parametrize("threshold", [0, *NOT_AMOUNTS], ids=repr)
def test_thresholds_that_are_none(threshold: object) -> None:
    with pytest.raises(UnitError, match="threshold"):
        Quorum(threshold, (PUBLIC[0],))


def test_how_many_keys_there_may_be() -> None:
    keys = tuple(
        Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32).public_key().public_bytes_raw() for n in range(17)
    )
    assert Quorum(16, keys[:16]).threshold == 16
    with pytest.raises(PolicyError, match="of 17 keys"):
        Quorum(1, keys)


@pytest.mark.parametrize("key", [b"", bytes(31), b"x" * 33, bytes(32), "00" * 32, None, bytearray(b"x" * 32)], ids=repr)
def test_keys_that_are_none(key: object) -> None:
    with pytest.raises(PolicyError, match="no Ed25519 public key"):
        Quorum(1, (PUBLIC[0], key))


# Signatures.


def test_signature_files() -> None:
    signatures = signed(policy(), 0, 1)
    content = policies.format_signatures(signatures)
    assert policies.parse_signatures(content) == signatures
    assert content == policies.format_signatures(dict(reversed(signatures.items())))
    assert json.loads(content)["signatures"][PUBLIC[0].hex()] == signatures[PUBLIC[0]].hex()
    assert policies.parse_signatures(policies.format_signatures({})) == {}


def test_how_many_signatures_there_may_be() -> None:
    many = {bytes([number]) * 32: bytes(64) for number in range(33)}
    with pytest.raises(PolicyError, match="33 signatures"):
        policies.format_signatures(many)
    del many[bytes(32)]
    content = policies.format_signatures(many)
    assert policies.parse_signatures(content) == many
    one_more = content.replace(b'"signatures": {', b'"signatures": {"%s": "%s",' % (b"0" * 64, b"0" * 128))
    with pytest.raises(PolicyError, match="33 signatures"):
        policies.parse_signatures(one_more)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "is no table"),
        (b"{}", "lacks signatures"),
        (b'{"signatures": {}, "more": 1}', "unknown field 'more'"),
        (b'{"signatures": []}', "is no table"),
        (b'{"signatures": {"00": "00"}}', "a key is '00'"),
        (b'{"signatures": {"%s": "00"}}' % (b"0" * 64), "a signature is '00'"),
        (b'{"signatures": {"%s": 5}}' % (b"0" * 64), "a signature is 5"),
        (b'{"signatures": {"a": "", "a": ""}}', "named twice"),
        (b" " * 16_385, "longer than 16384 bytes"),
        ('{"signatures": {}}'.encode("utf-16"), "not JSON"),
        (b"[" * 10_000, "not JSON"),
    ],
)
def test_files_that_hold_no_signatures(content: bytes, message: str) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        policies.parse_signatures(content)
    assert caught.value.remedy


def test_the_first_policy_is_signed_by_its_own_signers() -> None:
    first = policy()
    check_signed(first, signed(first, 0, 2), None)
    check_signed(first, signed(first, 0, 1, 2, 4), None)
    for numbers in ((), (0,), (0, 3), (3, 4)):
        with pytest.raises(PolicyError, match="valid signatures of the 2 that policy serial 1 needs"):
            check_signed(first, signed(first, *numbers), None)


def test_a_later_policy_is_signed_by_the_signers_before_it() -> None:
    first = policy()
    second = policy(serial=2, limit_bits=9 * 10**9, signers=Quorum(1, (PUBLIC[4],)))
    check_signed(second, signed(second, 0, 1), first)
    for numbers in ((4,), (0, 4), (0,)):
        with pytest.raises(PolicyError, match="valid signatures of the 2"):
            check_signed(second, signed(second, *numbers), first)
    third = policy(serial=3)
    check_signed(third, signed(third, 4), second)


def test_signatures_of_another_policy_or_key_count_for_nothing() -> None:
    first = policy()
    good = signed(first, 0, 1)
    for wrong in (
        signed(policy(limit_bits=8 * 10**9 + 8), 0, 1),
        good | {PUBLIC[1]: good[PUBLIC[0]]},
        good | {PUBLIC[1]: good[PUBLIC[1]][:-1]},
        good | {PUBLIC[1]: bytes(64)},
        good | {PUBLIC[1]: PRIVATE[1].sign(first.canonical())},
        good | {PUBLIC[1]: PRIVATE[1].sign(first.digest())},
    ):
        with pytest.raises(PolicyError, match="valid signatures of the 2"):
            check_signed(first, wrong, None)
    assert policies.valid_signatures(first.message(), good | {PUBLIC[3]: bytes(64)}) == good


@pytest.mark.parametrize("serial", [1, 3, 10**9])
def test_serials_leave_no_gap_and_never_repeat(serial: int) -> None:
    other = policy(serial=serial)
    with pytest.raises(PolicyError, match=f"policy serial {serial}, expected 2"):
        check_signed(other, signed(other, 0, 1, 2), policy())
    if serial > 1:
        with pytest.raises(PolicyError, match=f"policy serial {serial}, expected 1"):
            check_signed(other, signed(other, 0, 1, 2), None)


@pytest.mark.parametrize("changes", [{"lineage": "other"}, {"link": "other"}])
def test_a_chain_keeps_lineage_and_link(changes: dict) -> None:
    second = policy(serial=2, **changes)
    with pytest.raises(PolicyError, match="a policy of lineage"):
        check_signed(second, signed(second, 0, 1, 2), policy())


# Files.


def test_reading_a_policy_with_and_without_signatures(tmp_path: Path) -> None:
    path = tmp_path / "link.toml"
    path.write_bytes(toml())
    assert policies.read(path) == (policy(), {})
    signatures = signed(policy(), 1)
    assert policies.signatures_path(path) == tmp_path / "link.toml.signatures"
    policies.signatures_path(path).write_bytes(policies.format_signatures(signatures))
    assert policies.read(path) == (policy(), signatures)
    policies.signatures_path(path).write_bytes(b"")
    with pytest.raises(PolicyError, match="not JSON"):
        policies.read(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, message in (("missing.toml", "^cannot read .*: No such file"), (".", "is not a file$")):
        with pytest.raises(PolicyError, match=message) as caught:
            policies.read(tmp_path / name)
        assert caught.value.remedy
    path = tmp_path / "link.toml"
    path.write_bytes(toml())
    policies.signatures_path(path).mkdir()
    with pytest.raises(PolicyError, match="is not a file"):
        policies.read(path)
    with pytest.raises(PolicyError, match="/dev/zero is not a file"):
        policies.read(Path("/dev/zero"))


def test_a_large_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "link.toml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(PolicyError, match="longer than 32768 bytes"):
        policies.read(path)

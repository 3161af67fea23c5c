"""ADDRESS:PORT: one address and one port, or a refusal; never a name that somebody would have to resolve."""

import argparse

import pytest

from bitweir_metering import addresses


@pytest.mark.parametrize(
    "text",
    ["", "127.0.0.1", ":", ":17", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:-1", "localhost:17", "1"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="ADDRESS:PORT"):
        addresses.parse(text)


def test_addresses() -> None:
    assert addresses.parse("127.0.0.1:1") == ("127.0.0.1", 1)
    assert addresses.parse("10.77.0.1:65535") == ("10.77.0.1", 65535)


def test_any_free_port_is_for_who_listens() -> None:
    assert addresses.parse_listening("127.0.0.1:0") == ("127.0.0.1", 0)
    with pytest.raises(argparse.ArgumentTypeError, match="ADDRESS:PORT"):
        addresses.parse("127.0.0.1:0")
    with pytest.raises(argparse.ArgumentTypeError, match="ADDRESS:PORT"):
        addresses.parse_listening("127.0.0.1:65536")

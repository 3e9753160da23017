from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.address import Address


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1:50051", "127.8.8.8:1", "localhost:0", "[::1]:50051", "unix:/run/leyline.sock"],
)
def test_only_this_machine_reaches_a_loopback_address_or_a_socket(text: str) -> None:
    assert Address.parse(text).is_loopback


@pytest.mark.parametrize(
    "text",
    ["0.0.0.0:50051", "[::]:50051", "192.168.1.4:50051", "example.org:50051", "localhost.evil:1"],
)
def test_other_machines_may_reach_every_other_address(text: str) -> None:
    assert not Address.parse(text).is_loopback


@given(st.ip_addresses(), st.integers(0, 65535))
def test_an_address_is_read_as_it_was_written(ip: object, port: int) -> None:
    address = Address(str(ip), port)
    assert Address.parse(str(address)) == address


def test_both_spellings_of_a_socket_are_the_same_socket() -> None:
    assert Address.parse("unix:/run/a") == Address.parse("unix:///run/a")


@pytest.mark.parametrize(
    ("text", "what_is_wrong"),
    [
        ("50051", "HOST:PORT"),
        (":50051", "HOST:PORT"),
        ("127.0.0.1:", "0 to 65535"),
        ("127.0.0.1:65536", "0 to 65535"),
        ("127.0.0.1:http", "0 to 65535"),
        ("::1:50051", "brackets"),
        ("[nonsense]:50051", "nonsense"),
        ("unix:run/a", "absolute"),
        ("unix:/" + "a" * 107, "107 bytes"),
    ],
)
def test_what_is_no_address_is_refused_with_what_is_wrong(text: str, what_is_wrong: str) -> None:
    with pytest.raises(ValueError, match=what_is_wrong):
        Address.parse(text)

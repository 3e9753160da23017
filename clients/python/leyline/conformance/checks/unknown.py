"""Fields that this contract does not have, as bytes: what a trainer of a later release may send.

Written as https://protobuf.dev/programming-guides/encoding says.
"""

from __future__ import annotations

_FIELD = 15_000
_VARINT, _BYTES = 0, 2


def _varint(number: int) -> bytes:
    content = bytearray()
    while number > 0x7F:
        content.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*content, number])


UNKNOWN = _varint(_FIELD << 3 | _VARINT) + _varint(7)
"""A whole number in a field of its own."""


def unknown(size: int) -> bytes:
    """Return a field that holds so many bytes."""
    return _varint(_FIELD << 3 | _BYTES) + _varint(size) + bytes(size)

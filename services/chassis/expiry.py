"""When certificates end: a number to be alerted by, and a line in the log as they are read.

The standard library tells the end of an authority only, so that of any other is read here, out of
the few fields that come before it.
"""

from __future__ import annotations

import datetime
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chassis.logging import get_logger

WARNING_DAYS: Final = 21
"""How long before its end a certificate is worth a warning."""
_DAY_S: Final = 86400

_PEM: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL | re.ASCII
)
# Tags of X.690.
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17

_log = get_logger(__name__)


def first_end(pem: bytes) -> float:
    """When the first of the certificates in a file ends.

    Args:
        pem: what OpenSSL has taken for certificates.

    Returns:
        Seconds since 1970; infinity where there is none.
    """
    found = (ssl.PEM_cert_to_DER_cert(each.decode()) for each in _PEM.findall(pem))
    return min(map(_end, found), default=float("inf"))


def warn(path: Path, pem: bytes) -> None:
    """Say in the log that a certificate ends soon, if one of the file does."""
    end = first_end(pem)
    if end - time.time() < WARNING_DAYS * _DAY_S:
        ends = datetime.datetime.fromtimestamp(end, datetime.UTC).isoformat()
        _log.warning("certificate ends soon", file=str(path), ends=ends)


def _end(der: bytes) -> float:
    """``notAfter`` of a certificate (RFC 5280, section 4.1)."""
    _, certificate, _ = _element(der, 0)
    _, at, _ = _element(der, certificate)
    tag, _, after = _element(der, at)
    if tag == _VERSION:
        at = after
    for _serial_number_and_signature_and_issuer in range(3):
        _, _, at = _element(der, at)
    _, validity, _ = _element(der, at)
    _, _, at = _element(der, validity)
    tag, begin, after = _element(der, at)
    text = der[begin:after].decode()
    if tag == _UTC_TIME:
        # Two digits for the year: from 1950 to 2049.
        text = ("19" if text >= "50" else "20") + text
    end = datetime.datetime.strptime(text, "%Y%m%d%H%M%SZ")
    return end.replace(tzinfo=datetime.UTC).timestamp()


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """An element's tag, and where its content begins and ends (X.690, section 8.1)."""
    tag, length, begin = der[at], der[at + 1], at + 2
    if length & 0x80:
        octets = length & 0x7F
        length = int.from_bytes(der[begin : begin + octets])
        begin += octets
    return tag, begin, begin + length


class CertificateEnds(Collector):
    """When the certificates end that a server goes by."""

    def __init__(self, ends: Callable[[], Mapping[str, float]]) -> None:
        """Show ``ends``: seconds since 1970, by the setting that names the file."""
        self._ends = ends

    def collect(self) -> Iterator[Metric]:
        """Give one gauge."""
        family = GaugeMetricFamily(
            "leyline_certificate_end_timestamp_seconds",
            "When the first certificate of a file ends, since 1970.",
            labels=("file",),
        )
        for file, end in self._ends().items():
            family.add_metric((file,), end)
        yield family

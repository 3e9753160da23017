"""Certificates of two authorities, as files."""

from __future__ import annotations

from pathlib import Path

import trustme


class Certificates:
    """Two authorities, and what the first has signed, as files."""

    def __init__(self, directory: Path) -> None:
        ours, other = trustme.CA(), trustme.CA()
        leaf = ours.issue_cert("localhost", "127.0.0.1")
        self.ca, self.other_ca = directory / "ca.pem", directory / "other.pem"
        self.chain, self.key = directory / "chain.pem", directory / "key.pem"
        self.other_key = directory / "other-key.pem"
        ours.cert_pem.write_to_path(str(self.ca))
        other.cert_pem.write_to_path(str(self.other_ca))
        leaf.cert_chain_pems[0].write_to_path(str(self.chain))
        leaf.private_key_pem.write_to_path(str(self.key))
        other.issue_cert("localhost").private_key_pem.write_to_path(str(self.other_key))

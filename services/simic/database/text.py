"""Text as both databases take it."""

from __future__ import annotations

from sqlalchemy import Dialect, String
from sqlalchemy.types import TypeDecorator, TypeEngine

_NUL = "\0"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def plain(text: str) -> str:
    """What a column of ``PlainText`` holds of a text, for whoever writes past its type."""
    return text.replace(_NUL, _REPLACEMENT)


class PlainText(TypeDecorator[str]):
    """Text in the order of its code points, without NUL.

    PostgreSQL takes no NUL, and one in a single item would fail the commit of everybody's: it
    becomes U+FFFD. And PostgreSQL would sort by the operating system's idea of a language, which
    differs between machines, and whose change with an upgrade damages indexes.
    """

    impl = String
    cache_ok = True

    @property
    def length(self) -> int | None:
        """The most characters that there may be; None for any number."""
        assert isinstance(self.impl_instance, String)
        return self.impl_instance.length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[str]:
        """A column of the database at hand."""
        collation = "C" if dialect.name == "postgresql" else None
        return dialect.type_descriptor(String(self.length, collation))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """What is stored for ``value``."""
        return None if value is None else plain(value)

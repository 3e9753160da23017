"""Alembic's environment: the connection, and its transaction, are the caller's."""

from __future__ import annotations

from typing import Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext

from simic.database.schema import metadata
from simic.database.text import PlainText


def _render(kind: str, item: object, autogenerate: AutogenContext) -> str | Literal[False]:
    """How a new migration spells our own type."""
    if kind != "type" or not isinstance(item, PlainText):
        return False
    autogenerate.imports.add("from simic.database.text import PlainText")
    return f"PlainText({item.length or ''})"


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite changes a column by making the table anew.
    render_as_batch=True,
    render_item=_render,
)
context.run_migrations()

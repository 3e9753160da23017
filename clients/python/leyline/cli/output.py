"""What commands share: addresses as options, and output for people or as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine, Iterable, Sequence
from typing import Annotated, Any, TypeVar

import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from leyline.document import Document
from leyline.error import ServiceError
from leyline.stack import Addresses

Content = TypeVar("Content", bound=Message)
Result = TypeVar("Result")

_ADDRESSES = Addresses()
PANEL = "Connection"
_PIPE_WIDTH = 240  # nothing is folded for a program, or for grep

KasminaAt = Annotated[
    str,
    typer.Option(
        "--kasmina",
        metavar="ADDRESS",
        envvar="LEYLINE_KASMINA_ADDRESS",
        help="Where Kasmina is.",
        rich_help_panel=PANEL,
    ),
]
SimicAt = Annotated[
    str,
    typer.Option(
        "--simic",
        metavar="ADDRESS",
        envvar="LEYLINE_SIMIC_ADDRESS",
        help="Where Simic is.",
        rich_help_panel=PANEL,
    ),
]
TamiyoAt = Annotated[
    str,
    typer.Option(
        "--tamiyo",
        metavar="ADDRESS",
        envvar="LEYLINE_TAMIYO_ADDRESS",
        help="Where Tamiyo is.",
        rich_help_panel=PANEL,
    ),
]
KASMINA, TAMIYO, SIMIC = _ADDRESSES.kasmina, _ADDRESSES.tamiyo, _ADDRESSES.simic

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Set a field by its path in the contract, to what YAML would have there. Can be given "
        "more than once.",
    ),
]


def finish(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a command's asynchronous work to its end."""
    return asyncio.run(work)


def as_dict(message: Message) -> dict[str, Any]:
    """Return a message in its JSON form, with the names of the contract and every plain field."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def print_json(value: Any, *, lines: bool = False) -> None:
    """Print a message, or anything made of lists and dictionaries; in `lines`, on one line."""
    content = as_dict(value) if isinstance(value, Message) else value
    print(json.dumps(content, indent=None if lines else 2, ensure_ascii=False), flush=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; a pipe gets it in full width."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(table)


def filled(kind: type[Content], document: Document, changes: Sequence[str] | None) -> Content:
    """Return the message that a document and changes to it make, `training.horizon=12`.

    Raises:
        InvalidDocument: they make none.
    """
    for change in changes or ():
        document.change(change)
    return document.message(kind)


def tell_break(error: ServiceError, wait_s: float) -> None:
    """Say that a stream broke and is called again."""
    print(f"leyline: {error.message}; trying again in {wait_s:.1f} s", file=sys.stderr, flush=True)

"""What a command shows to a server, and whom it trusts: the same options everywhere."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from leyline.channel import NO_CREDENTIALS, Credentials
from leyline.cli.output import PANEL

Command = TypeVar("Command", bound=Callable[..., Any])


def _option(name: str, variable: str, text: str) -> Any:
    return typer.Option(name, envvar=variable, help=text, rich_help_panel=PANEL)


_FOLDER = Annotated[
    Path | None,
    _option(
        "--credentials",
        "LEYLINE_CREDENTIALS",
        "Folder that `leyline certs` made, in place of the four below.",
    ),
]
_FILES = {
    "ca": Annotated[
        Path | None,
        _option("--ca", "LEYLINE_CA", "PEM certificates that sign the server's; given, it is TLS."),
    ],
    "certificate": Annotated[
        Path | None,
        _option(
            "--certificate", "LEYLINE_CERTIFICATE", "PEM certificate to show, where one is wanted."
        ),
    ],
    "key": Annotated[Path | None, _option("--key", "LEYLINE_KEY", "Its private key.")],
    "token": Annotated[
        Path | None,
        _option("--token-file", "LEYLINE_TOKEN_FILE", "File with the token to show."),
    ],
}


def connecting(command: Command) -> Command:
    """Give a command the options of a connection, and it the `Credentials` that they make.

    It takes them as its parameter `credentials`, in whose place the options stand.
    """
    # Not those of the signature, which may be strings that only the command's own module can read.
    hints = get_type_hints(command, include_extras=True)
    del hints["credentials"]
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name != "credentials":
            parameters.append(parameter.replace(annotation=hints[name]))
            continue
        for option, kind in {"folder": _FOLDER, **_FILES}.items():
            hints[option] = kind
            parameters.append(parameter.replace(name=option, annotation=kind, default=None))

    @functools.wraps(command)
    def told(**given: Any) -> Any:
        folder = given.pop("folder")
        files = {name: given.pop(name) for name in _FILES}
        shown = NO_CREDENTIALS if folder is None else Credentials.in_folder(folder)
        said = {name: path for name, path in files.items() if path is not None}
        return command(**given, credentials=replace(shown, **said))

    told.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    told.__annotations__ = hints
    return told  # type: ignore[return-value]

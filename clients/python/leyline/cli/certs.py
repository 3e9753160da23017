"""`leyline certs`: an authority for a stack, and certificates and tokens of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from leyline.channel import CA
from leyline.cli.output import AsJson, print_json, print_table
from leyline.installation import check_extra

commands = typer.Typer(
    no_args_is_help=True, help="Certificates and tokens for the services of a stack."
)

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="The authority's, with a folder for each member.")
]
Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        metavar="NAME",
        envvar="LEYLINE_CERTS_HOSTS",
        help="A name or IP address that clients know the services by, beside kasmina, tamiyo, "
        "simic, localhost and 127.0.0.1. Can be given more than once.",
    ),
]


@commands.command()
def init(folder: Folder, host: Hosts = None) -> None:
    """Make an authority, and certificates and tokens for its members: kasmina, tamiyo, simic, an
    operator, and Prometheus.

    What is there, goes together and lasts for another month stays, so that it also completes what
    was broken off. Whoever has ca-key.pem can make more: keep it where no service runs.

    Examples:

      leyline certs init stack-certs

      leyline certs init stack-certs --host gpu7.example.org --host 10.0.0.7
    """
    check_extra("certs")
    from leyline.certificates import Authority

    Authority.made(folder).supply(host or ())
    _show(folder)
    _warn(folder)


@commands.command()
def renew(
    folder: Folder,
    host: Hosts = None,
    forget_hosts: Annotated[
        bool,
        typer.Option("--forget-hosts", help="Leave out names that --host does not say again."),
    ] = False,
) -> None:
    """Give every member a new certificate, for the names of the one before and those of --host, and
    a new token.

    Services read them while they run. A token holds until the renewal after the next one.

    Examples:

      leyline certs renew stack-certs

      leyline certs renew stack-certs --host gpu8.example.org --forget-hosts
    """
    check_extra("certs")
    from leyline.certificates import Authority

    Authority(folder).issue(host or (), forget_hosts=forget_hosts)
    _show(folder)
    _warn(folder)


@commands.command()
def revoke(
    folder: Folder,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A member, or who else has a line in a list.")
    ],
) -> None:
    """Take back the tokens that go by a name, at once. A member gets another one, with a new
    certificate, and is refused until it has read it.

    Services read their lists while they run.

    Examples:

      leyline certs revoke stack-certs kasmina
    """
    check_extra("certs")
    from leyline.certificates import Authority

    Authority(folder).revoke(name)


@commands.command()
def show(folder: Folder, as_json: AsJson = False) -> None:
    """List who has a certificate, for which names, and until when.

    The exit code is 1 where one ends within three weeks, the authority's own included.

    Examples:

      leyline certs show stack-certs
    """
    check_extra("certs")
    from leyline.certificates import issued

    if as_json:
        print_json(
            [
                {
                    "member": each.member,
                    "names": list(each.names),
                    "expires": each.expires.isoformat(),
                }
                for each in issued(folder)
            ]
        )
    else:
        _show(folder)
    raise typer.Exit(1 if _warn(folder) else 0)


def _show(folder: Path) -> None:
    from leyline.certificates import issued

    print_table(
        ("for", "names", "expires", "days left"),
        [
            (
                each.member,
                ", ".join(each.names) or "-",
                f"{each.expires:%Y-%m-%d}",
                each.left.days,
            )
            for each in issued(folder)
        ],
    )


def _warn(folder: Path) -> bool:
    """Say which certificates end soon; returns whether any does."""
    from leyline.certificates import ALARM_DAYS, AUTHORITY, issued

    ending = [each.member for each in issued(folder) if each.left.days < ALARM_DAYS]
    if not ending:
        return False
    again = f"leyline certs init {folder}"
    remedy = f"{again} makes others"
    if AUTHORITY in ending:
        remedy = f"remove {folder / CA}, and {again} makes another authority and everything anew"
    print(
        f"leyline: less than {ALARM_DAYS} days are left for {', '.join(ending)}: {remedy}",
        file=sys.stderr,
    )
    return True

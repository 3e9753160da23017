"""`leyline conformance`: whether a policy server keeps the contract."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from leyline.channel import NO_CREDENTIALS, Credentials
from leyline.cli.credentials import connecting
from leyline.cli.output import AsJson, finish, print_json, print_table
from leyline.conformance import Case, Level, Outcome, Result, Target, load_cases, run_cases
from leyline.conformance.report import as_json as report_of
from leyline.conformance.report import as_junit, counts
from leyline.conformance.target import STREAM_TIMEOUT_S
from leyline.document import InvalidDocument
from leyline.filling import Problem

_MARKS = {
    Outcome.PASSED: "[green]passed[/]",
    Outcome.FAILED: "[red bold]FAILED[/]",
    Outcome.SKIPPED: "[yellow]skipped[/]",
}


def register(application: typer.Typer) -> None:
    """Add the command."""
    application.command()(conformance)


@connecting
def conformance(
    address: Annotated[
        str, typer.Argument(metavar="HOST:PORT", help="Where the policy server is.")
    ] = "",
    level: Annotated[
        Level,
        typer.Option(help="core: what a trainer needs. full: what a server in production owes."),
    ] = Level.CORE,
    case: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Run this case, or this section, only. Repeatable."),
    ] = None,
    restart_cmd: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Shell command that ends the server by SIGTERM, starts it again at the same "
            "address and returns. Without it the cases under operations are skipped.",
        ),
    ] = None,
    stream_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            help="How long a stream of up to a thousand queries may take: more for a slow policy.",
        ),
    ] = STREAM_TIMEOUT_S,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a report as JUnit's XML, for CI.")
    ] = None,
    list_cases: Annotated[
        bool, typer.Option("--list", help="List the level's cases and what each failure means.")
    ] = False,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Test an implementation of PolicyService, in any language, against the contract.

    The exit code is 0 where no case failed, 1 where one did, 2 where there was nothing to test.

    Examples:

      leyline conformance 127.0.0.1:50052

      leyline conformance 127.0.0.1:50052 --level full --restart-cmd ./restart.sh --junit report.xml

      leyline conformance 127.0.0.1:50052 --case streams --case decisions.distribution --level full

      leyline conformance --list --level full
    """
    cases = _chosen(load_cases(level), case or [])
    if list_cases:
        _list(cases, as_json)
        return
    if not address:
        raise typer.BadParameter("say where the server is: leyline conformance HOST:PORT")
    token = None if credentials.token is None else _token(credentials.token)
    if junit is not None:
        junit.touch()  # where it cannot be written, that is said before the cases are run
    target = Target(address, credentials, token, restart_cmd, stream_timeout)
    target, results = finish(_run(target, cases, quietly=as_json))
    if junit is not None:
        junit.write_text(as_junit(target, results), encoding="utf-8")
    if as_json:
        print_json(report_of(target, results))
    else:
        _summarise(target, results)
    raise typer.Exit(1 if counts(results)["failed"] else 0)


def _token(path: Path) -> str:
    token = path.read_bytes().decode("ascii", errors="replace").strip()
    # What may stand in a Bearer header: RFC 6750, section 2.1.
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", token):
        raise InvalidDocument(str(path), [Problem("", "holds no bearer token on one line")])
    return token


def _chosen(cases: Sequence[Case], wanted: Sequence[str]) -> list[Case]:
    known = {case.id for case in cases} | {case.id.partition(".")[0] for case in cases}
    for name in wanted:
        if name not in known:
            raise typer.BadParameter(
                f"there is no case or section {name!r} at this level; --list shows them"
            )
    return [
        case
        for case in cases
        if not wanted or case.id in wanted or case.id.partition(".")[0] in wanted
    ]


def _list(cases: Sequence[Case], as_json: bool) -> None:
    if as_json:
        print_json([vars(case) for case in cases])
        return
    print_table(
        ["case", "level", "promise", "what a failure means"],
        [(case.id, case.level, case.title, case.means) for case in cases],
    )


async def _run(
    target: Target, cases: Sequence[Case], *, quietly: bool
) -> tuple[Target, list[Result]]:
    target = await target.introduced()
    results = []
    if not quietly:
        info = target.info
        print(f"{info.implementation}: policy {info.policy}, version {info.policy_version}\n")
    async for result in run_cases(target, cases):
        results.append(result)
        if not quietly:
            _show(result)
    return target, results


def _show(result: Result) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{_MARKS[result.outcome]} {result.case.id} [dim]({result.seconds:.2f} s)[/]")
    if result.outcome is Outcome.FAILED:
        for label, text in (
            ("promised", result.case.title),
            ("instead", result.message),
            ("means", result.case.means),
        ):
            console.print(f"          {label}: {text}", markup=False)
    elif result.outcome is Outcome.SKIPPED:
        console.print(f"          {result.message}", markup=False)


def _summarise(target: Target, results: Sequence[Result]) -> None:
    counted = counts(results)
    print(
        f"\n{counted['passed']} passed, {counted['failed']} failed, {counted['skipped']} skipped "
        f"in {sum(result.seconds for result in results):.1f} s at {target.address}",
        flush=True,
    )
    if counted["failed"]:
        print("Run one alone with --case ID.", file=sys.stderr)

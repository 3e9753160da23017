"""Pages of rows, newest first: a page's token is the number of its last row."""

from __future__ import annotations

from chassis.errors import ErrorCode, LeylineError, Violation


def row_number(page_token: str) -> int:
    """The row that a page ended with.

    Raises:
        LeylineError: INVALID_ARGUMENT for a token that no page gave.
    """
    if not (page_token.isascii() and page_token.isdigit() and len(page_token) <= 18):
        raise LeylineError(
            ErrorCode.INVALID_ARGUMENT,
            violations=[Violation("page_token", "must come from the page before")],
        )
    return int(page_token)

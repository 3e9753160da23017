"""What keeps the study from going on."""

from __future__ import annotations


class StudyError(Exception):
    """The study cannot go on. The text says why, and what to do."""

"""How far a run is, and how long it will yet take."""

from __future__ import annotations

import statistics
from collections import deque

from leyline.indices import episode_indices
from leyline.v1.trainer_pb2 import RunSpec, WatchRunResponse

_RECENT = 20  # steps that the estimate is made of


class Pace:
    """Counts a run's steps by its events, and tells their pace by the trainer's clock."""

    def __init__(self, spec: RunSpec) -> None:
        """Take a settled specification: it says how many steps there will be."""
        self._horizon = spec.training.horizon
        self._indices = episode_indices(spec)
        self.total = len(self._indices) * self._horizon
        """Steps of the whole run."""
        self.done = 0
        """Steps completed."""
        self._last: float | None = None
        self._seconds: deque[float] = deque(maxlen=_RECENT)

    def add(self, event: WatchRunResponse) -> None:
        """Take in the next event."""
        kind = event.WhichOneof("event")
        now = event.time.ToNanoseconds() / 1e9
        if kind == "step_completed":
            step_id = event.step_completed.step_id
            self.done = self._before(step_id.episode_index) + step_id.step + 1
            if self._last is not None:
                self._seconds.append(now - self._last)
            self._last = now
        elif kind == "episode_began":
            self._last = now
        elif kind == "state_changed":
            self._last = None  # a pause is no step
        elif kind == "episode_ended":
            ended = event.episode_ended
            self.done = max(self.done, self._before(ended.episode_index) + self._horizon)

    def _before(self, episode_index: int) -> int:
        """Steps of the run's episodes before this one."""
        return self._indices.index(episode_index) * self._horizon

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the rest will take at the recent pace; None while there is none."""
        if not self._seconds:
            return None
        return statistics.median(self._seconds) * max(self.total - self.done, 0)

    def __str__(self) -> str:
        text = f"{self.done} of {self.total}"
        left = self.seconds_left
        return text if left is None or self.done >= self.total else f"{text}, {_said(left)} left"


def _said(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours / 24:.0f} days"

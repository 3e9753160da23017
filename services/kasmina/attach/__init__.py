"""Growth in somebody else's training loop: slots, telemetry and a remote policy as a library."""

from kasmina.attach.attaching import attach
from kasmina.attach.connection import AttachError
from kasmina.attach.graft import MisplacedStep
from kasmina.attach.growth import Growth, Move
from kasmina.attach.options import AttachOptions
from kasmina.network.module_host import UnfitModule

__all__ = [
    "AttachError",
    "AttachOptions",
    "Growth",
    "MisplacedStep",
    "Move",
    "UnfitModule",
    "attach",
]

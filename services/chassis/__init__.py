"""What every service needs once: settings, logging, errors, a server's life, channels.

Knows no service. A service's ``serve`` opens a ``chassis.server.Server`` with its own
``chassis.settings.ServerSettings``; its domain raises ``chassis.errors.LeylineError``.
"""

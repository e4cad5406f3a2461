"""The worker's side of the queue: reserve, renew, finish, hand back; every transition is one fenced Lua script.

Imports the client package only; workers import `Queue` from here.
"""

from rushes_service.queue.queue import Queue, Renewal, Reservation

__all__ = ["Queue", "Renewal", "Reservation"]

"""The worker's side of the queue: reserve, renew, finish, give back. Every transition is one fenced Lua script."""

from rushes_service.queue.queue import Queue, Renewal, Reservation

__all__ = ["Queue", "Renewal", "Reservation"]

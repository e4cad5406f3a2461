"""HTTP without Redis: problem responses, file responses, paths below the roots, rate limits, access control.

Imports settings and the error tree; the rest of the API imports it.
"""

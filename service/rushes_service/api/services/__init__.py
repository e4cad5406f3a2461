"""The work behind routes: requests to jobs, stored uploads, grids, repeated answers, removal of old files.

Imports context, schemas, http and the catalogue; only routes and `app` import it.
"""

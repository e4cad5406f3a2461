"""What routes do: turn requests into jobs, store uploads, queue grids, repeat answers, delete old files.

Imports context, schemas, http and the catalogue; only routes and `app` import it.
"""

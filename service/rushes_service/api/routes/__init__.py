"""One module of routes for each resource; `app` includes their routers.

Imports services and everything below them; routes share no code except through services.
"""

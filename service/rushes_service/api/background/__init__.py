"""Consumers of the event stream: live feed, metrics, thumbnails, webhooks.

Imports the client package and the catalogue; `context`, services and routes import it.
"""

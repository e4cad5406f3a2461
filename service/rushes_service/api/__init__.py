"""The REST API: thin routes over `rushes.client.client.Client`, live events, and the page that shows both."""

from rushes_service.api.app import create_app

__all__ = ["create_app"]

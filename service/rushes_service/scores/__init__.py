"""Scores of finished samples: numbers such as the agreement of picture and prompt, made beside the sampling.

Imports the client package and frames of media files; `clip` imports torch when it is used. Worker and CLI import it.
"""

"""Subcommands of `rushes` that need the service; each has `add_arguments(parser)` and `run(args) -> int`.

May import everything; `rushes.cli.main` loads a module when its command is called.
"""

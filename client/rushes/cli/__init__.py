"""The light subcommands of `rushes`: each module has `add_arguments(parser)` and `run(args) -> int`.

May import every room of the client, and the service only when one of its subcommands is run.
"""

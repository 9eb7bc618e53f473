"""The command line. Each command imports what it needs when it runs, so that help is instant."""

from pal.cli.app import app, main

__all__ = ["app", "main"]

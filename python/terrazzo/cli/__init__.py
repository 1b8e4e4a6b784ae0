"""The command line: one module for each subcommand."""

from .main import main

__all__ = ["main"]

"""The command line: seal, open and look into files and pipes. Needs the extra ``cli``."""

from anyseal.cli.app import run

__all__ = ["run"]

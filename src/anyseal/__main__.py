"""``python -m anyseal`` and the console script ``anyseal``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line with the arguments of the process.

    Returns:
        The exit code: 0 done, 1 the data or the system failed, 2 wrong usage, or the extra that the
        command line needs is missing.
    """
    if sys.argv[1:] == ["--version"]:  # needs neither the extra nor the time that it takes to load
        from anyseal import __version__

        print(f"anyseal {__version__}")
        return 0
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError:
        print("the command line needs an extra: pip install 'anyseal[cli]'", file=sys.stderr)
        return 2
    try:
        from anyseal.cli import run
    except KeyboardInterrupt:  # before the command line takes care of signals itself
        return 130
    except ValueError as exc:  # ConfigurationError: libsodium cannot be loaded, or is broken
        print(f"anyseal: {exc}", file=sys.stderr)
        return 2
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

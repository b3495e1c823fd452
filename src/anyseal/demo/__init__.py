"""The main job on real input, in words and tables: ``make demo``, ``anyseal demo``. Needs rich."""

from anyseal.demo.files import run

__all__ = ["run"]

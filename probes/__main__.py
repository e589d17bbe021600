"""``python -m probes`` is the command ``probes``."""

from .commands.cli import main

__all__: list[str] = []

main()

"""`python -m hostdev.cli` is hostdevctl."""

from hostdev.cli import main

main()

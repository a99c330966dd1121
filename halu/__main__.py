"""`python -m halu`, the same as `halu`."""

from halu.cli import main

main()

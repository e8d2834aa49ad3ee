"""`python -m jointrt.cli`."""

from . import main

main()

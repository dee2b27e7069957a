"""`python -m sophia_cli` is `sophia`."""

from sophia_cli.cli import main

main()

"""Cli as a program: ``python -m tessella.cli``."""

from tessella.cli.main import main

main()

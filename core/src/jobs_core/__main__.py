"""`python -m jobs_core`: the command line, if the scripts are not on the path."""

from .cli.main import main

main()

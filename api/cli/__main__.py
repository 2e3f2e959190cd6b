"""``python -m api.cli``: the command where the console script is not on the PATH."""

from api.cli.main import main

main()

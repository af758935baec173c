"""`python -m autoprune` is the command line."""

from autoprune.command.cli import main

raise SystemExit(main())

"""`python -m rtp_core.cli` is `rtp`."""

from rtp_core.cli.main import main

main()

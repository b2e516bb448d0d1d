"""`python -m mmvae.cli`: the same as `mmvae`."""

import sys

from mmvae.cli.command_line import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m ridgeline.bench``."""

from __future__ import annotations

import argparse
import sys

from . import cli

parser = argparse.ArgumentParser(prog="python -m ridgeline.bench", description=cli.DESCRIPTION)
cli.add_arguments(parser)
sys.exit(cli.run(parser.parse_args()))

"""The command `python -m hns.report`."""

import sys

from hns.report import main

main(sys.argv)

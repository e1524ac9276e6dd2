"""The command `python -m hns.report`."""

from hns.report import main

main()

"""Helpers of these tests stand beside this file and one folder up; tests are run by file name, without packages."""

import sys
from pathlib import Path


for folder in (Path(__file__).parent, Path(__file__).parent.parent):
    sys.path.insert(0, str(folder))

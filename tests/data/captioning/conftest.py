"""Helpers of these tests stand beside this file; tests are run by file name, without packages."""

import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent))

"""Helpers of these tests stand beside this file and beside the captioning tests."""

import sys
from pathlib import Path


sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "captioning")]

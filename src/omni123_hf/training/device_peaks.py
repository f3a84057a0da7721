"""What devices can compute at most: the denominator of model FLOP utilisation (MFU).

The figures are the vendors' for dense bfloat16 products, not measured by us; real products reach perhaps four fifths of them.
"""

import os
import re

import torch

from ..errors import Omni123Error


PEAK_VARIABLE = "OMNI123_PEAK_TFLOPS"
# Vendor's data sheet, dense bf16, TFLOP/s. The pattern is that of `torch.cuda.get_device_name()`; PCIe and NVL boards of the
# H100 and H200 are clocked lower and are left out.
PEAKS = {
    "H100 SXM": (989.0, re.compile(r"H100(?!.*(PCIe|NVL))")),
    "H200": (989.0, re.compile(r"H200(?!.*NVL)")),
    "A100": (312.0, re.compile(r"A100")),
}
DEFAULT_DEVICE = "H100 SXM"


def known_peak(device_name: str) -> float | None:
    """TFLOP/s of a CUDA device by its name; None for one that the table does not have."""
    return next((peak for peak, pattern in PEAKS.values() if pattern.search(device_name)), None)


def check_peak(value: object, what: str) -> float:
    """A peak in TFLOP/s as a number. Raises `Omni123Error` unless it is above 0 and finite."""
    try:
        peak = float(str(value))
    except ValueError:
        peak = float("nan")
    if not 0 < peak < float("inf"):
        raise Omni123Error(f"{what} is {value!r}: give a device's peak in TFLOP/s, a number above 0.")
    return peak


def given_peak(option: float | None, what: str) -> tuple[float, str] | None:
    """Peak and where it comes from, by an option, else by the environment, else by this machine's CUDA device; else None."""
    if option is not None:
        return check_peak(option, what), "as given"
    if os.environ.get(PEAK_VARIABLE):
        return check_peak(os.environ[PEAK_VARIABLE], PEAK_VARIABLE), f"{PEAK_VARIABLE}"
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        peak = known_peak(name)
        if peak is not None:
            return peak, f"vendor's figure for {name}, dense bf16"
    return None

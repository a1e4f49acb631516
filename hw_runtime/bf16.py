"""bfloat16 as bits, for numpy, which has no such type: the rounding that the kernels use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_float(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Widen bf16 bits to float32, exactly.

    Examples
    --------
    >>> to_float(np.array([0x3F80, 0xC000], np.uint16)).tolist()
    [1.0, -2.0]
    """
    return (bits.astype(np.uint32) << 16).view(np.float32)


def from_float(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round float32 to bf16 bits: to nearest, ties to even; a NaN becomes the quiet 0x7FFF.

    Examples
    --------
    >>> [hex(v) for v in from_float(np.array([1.0, 1.00390625, 1.01171875], np.float32))]
    ['0x3f80', '0x3f80', '0x3f82']
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), 0x7FFF, rounded).astype(np.uint16)

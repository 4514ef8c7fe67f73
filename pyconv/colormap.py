"""The colour map of every heat map: inferno, from black over red to pale yellow.

Its lightness rises evenly with the value, so it reads the same in grey and to the colour-blind.
Nathaniel Smith and Stéfan van der Walt made it for Matplotlib; it is in the public domain (CC0).
"""

from __future__ import annotations

import base64
import zlib

import numpy as np
from numpy.typing import NDArray

# The table's rows change so little from one to the next that their differences pack into a tenth.
_DIFFERENCES = (
    "c-n1}0S?132m@{C{{Q1LFkwlzNs)DSAVo<52M8EbX#!7RLfc|5oiME}_EeK*Zji+eO{ZBDhy`&n#i_kMtZ8Zj"
    "5^EIBKzrOgrSiXa>$gRmHEM}zj7QCERq?86+hy?`Zrh(|2yJ0ACRr_|Q+DX?735{{J}ZB7+T?cIBe`LRwfn<J"
    "o)8^cfEA)oZkXM!2PdoqI;Q~rc)j`tjmP7!XRk%uTt9^mdpy7eJ~h6Tm-vz$<)x(Il|U9#zyT}H-}rh1c&lrl"
)


def _unpack(differences: str) -> NDArray[np.uint8]:
    steps = np.frombuffer(zlib.decompress(base64.b85decode(differences)), np.int8)
    table = steps.reshape(256, 3).cumsum(axis=0).astype(np.uint8)
    table.flags.writeable = False
    return table


INFERNO = _unpack(_DIFFERENCES)
"""(256, 3) uint8: red, green and blue, from the lowest value to the highest."""

"""Memory and speed of GPUs, from their makers' data sheets."""

import difflib
import re
from typing import Dict, NamedTuple

from ..errors import UserError

GB = 2**30
# What a prediction cannot know: context of the driver and kernels, workspaces of cuDNN and cuBLAS,
# and memory that torch's allocator holds in pieces too small to use. Assumed, not measured.
CONTEXT = GB
FRAGMENTED = 0.05


class Card(NamedTuple):
    """A GPU.

    Attributes:
        memory: Bytes.
        tflops: Most dense operations a second, in 10^12, of float32 (TF32 where there is).
        tflops_half: Those of 16 bits.
    """

    memory: int
    tflops: float = 0.0
    tflops_half: float = 0.0


CARDS: Dict[str, Card] = {
    't4': Card(16 * GB, 8.1, 65),
    'v100-16': Card(16 * GB, 15.7, 125),
    'v100-32': Card(32 * GB, 15.7, 125),
    'rtx3090': Card(24 * GB, 35.6, 71),
    'rtx4090': Card(24 * GB, 82.6, 165.2),
    'a10': Card(24 * GB, 62.5, 125),
    'l4': Card(24 * GB, 60, 121),
    'l40s': Card(48 * GB, 183, 362),
    'a100-40': Card(40 * GB, 156, 312),
    'a100-80': Card(80 * GB, 156, 312),
    'h100': Card(80 * GB, 494, 989),
    'h200': Card(141 * GB, 494, 989),
}


def find_card(name: str) -> Card:
    """A GPU by its name, or by its memory, as in '24GB'.

    Raises:
        UserError: If it is neither.
    """
    wanted = name.strip().lower()
    size = re.fullmatch(r'(\d+(?:\.\d+)?)\s*(?:gb|gib|g)', wanted)
    if size and float(size[1]) > 0:
        return Card(int(float(size[1]) * GB))
    if wanted in CARDS:
        return CARDS[wanted]
    close = difflib.get_close_matches(wanted, CARDS, n=1)
    hint = f'did you mean {close[0]}?' if close else f'known are {", ".join(CARDS)}'
    raise UserError(f'--gpu {name}: neither memory as 24GB nor a GPU that is known; {hint}')


def with_reserve(size: int) -> int:
    """Bytes that a GPU must have for a peak of ``size``."""
    return int(size * (1 + FRAGMENTED)) + CONTEXT

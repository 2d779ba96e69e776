"""Operators in place of mmcv's compiled ones, on torchvision and plain torch.

``mmcv.ops`` asks for a compiled module ``mmcv._ext``. Importing ``gcvit_mm`` lets
:class:`~gcvit_mm.ops.standin.Extension` answer for it. ``GCVIT_MM_OPS`` says whose operators are
used: ``auto`` (default), ``compiled`` or ``torch``; see ``docs/operators.md``.
"""

from .standin import MODES, OPERATORS, Extension, mode, stand_in

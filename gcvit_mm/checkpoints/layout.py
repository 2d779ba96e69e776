"""How a layout of released checkpoint keys is described."""

import re
from dataclasses import dataclass
from typing import Dict, Optional, Sequence, Tuple

from torch import Tensor

Rules = Sequence[Tuple[str, str]]


@dataclass(frozen=True)
class Layout:
    """A layout of keys, and how it becomes ours.

    Attributes:
        name: Shown in messages.
        marks: Regular expressions; each must match a key for the layout to be recognised.
        rules: Pairs of regular expression and replacement, applied to a key one after the
            other. Keys that then start with ``head.`` belong to the classifier.
        rest_rules: The same for keys that are not the backbone's (necks, heads) in the file of a
            whole model.
        drop: Regular expressions of keys without a use, such as index buffers.
        squeeze: Regular expressions (of our keys) of linear layers stored as 1x1 convolutions.
        licence: Said once when such weights are loaded.
    """

    name: str
    marks: Sequence[str]
    rules: Rules = ()
    rest_rules: Rules = ()
    drop: Sequence[str] = ()
    squeeze: Sequence[str] = ()
    licence: Optional[str] = None

    def matches(self, state: Dict[str, Tensor]) -> bool:
        """Tell whether the keys are in this layout."""
        return all(any(re.search(mark, key) for key in state) for mark in self.marks)

    def convert(self, state: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """Rename the keys of a backbone (without prefix) and its classifier to ours."""
        converted = {}
        for key, value in state.items():
            if any(re.search(pattern, key) for pattern in self.drop):
                continue
            key = _rename(key, self.rules)
            convolution = value.shape[2:] == (1, 1)
            if convolution and any(re.search(pattern, key) for pattern in self.squeeze):
                value = value[:, :, 0, 0]
            converted[key] = value
        return converted

    def convert_rest(self, state: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """Rename the keys of necks and heads in the file of a whole model."""
        return {_rename(key, self.rest_rules): value for key, value in state.items()}


def _rename(key: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key

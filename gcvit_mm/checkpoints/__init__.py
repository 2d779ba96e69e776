"""Released and own checkpoints: reading, renaming, loading loudly."""

from ..errors import CheckpointError
from .convert import convert_state_dict, detect_layout, split_state_dict
from .loading import (
    check_whole_model,
    load_model,
    load_pretrained,
    plain_weights,
    pretrained_cfg,
    read_safely,
)
from .reading import local_path, read_checkpoint, unwrap

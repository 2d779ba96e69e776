"""What the tools share. Nothing of it is imported with the package."""

from .arguments import (
    LAUNCHERS,
    KeyValue,
    add_config_arguments,
    add_engine_argument,
    add_run_arguments,
)
from .config import load_config, replace_data_root
from .devices import amp_settings, check_devices, predict_in_bfloat16, use_amp, use_cpu
from .exported import (
    check_engine,
    check_exported,
    evaluate_exported,
    headlines,
    is_exported,
    open_exported,
)
from .memory import MemoryReport, gpu_memory, memory_line, out_of_memory
from .outputs import check_output, make_folder, save_figure, whole_output
from .preflight import (
    check_file,
    check_restarts,
    check_strategy,
    fetch_pretrained,
    preflight,
    prepare,
)
from .rehearsal import rehearse
from .runner import build_model, build_runner
from .running import run_tool
from .submission import submission, submit
from .tables import evaluate_fast, need_package
from .terminal import say_next

"""What the measurement ran on: device, driver, clocks, toolkit."""

from __future__ import annotations

import platform
import subprocess

import torch

from .rows import Clocks, Machine

_QUERY = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem"


def describe(device: torch.device, count: int = 1) -> Machine:
    """Describe the device; call it at the end, while the clocks are still those of work."""
    python, version = platform.python_version(), str(torch.__version__)
    if device.type != "cuda":
        return Machine(
            _cpu_name(), "cpu", platform.machine(), count, torch.get_num_threads(),
            None, None, None, version, python,
        )  # fmt: skip
    shown = torch.cuda.get_device_properties(device)
    driver, clocks = _ask_driver(torch.device(device).index or 0)
    return Machine(
        shown.name, "gpu", f"sm_{shown.major}{shown.minor}", count, shown.multi_processor_count,
        shown.total_memory, driver, torch.version.cuda, version, python, clocks,
    )  # fmt: skip


def _ask_driver(index: int) -> tuple[str | None, Clocks]:
    """Ask nvidia-smi, which comes with the driver; what it does not say stays null."""
    command = [
        "nvidia-smi", f"--id={index}", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits",
    ]  # fmt: skip
    try:
        # No shell, fixed words and a number.
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None, Clocks(None, None, None, None)
    words = [word.strip() for word in done.stdout.strip().splitlines()[0].split(",")]
    numbers = [_number(word) for word in words[1:5]] + [None] * 4
    return words[0], Clocks(numbers[0], numbers[1], numbers[2], numbers[3])


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None  # "[N/A]"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - a stream, not a file
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

"""The device of the work, how much memory it has, and how much was used at most."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

from sspir.errors import UserError

E = TypeVar("E", bound=Exception)

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CGROUP, _MEMORY = Path("/sys/fs/cgroup"), Path("/proc/meminfo")
_ASSUMED = 4 * 2**30  # bytes of memory, where the system does not say


def choose_device(name: str) -> torch.device:
    """The device called "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", "mps" ...

    Raises:
        UserError: there is none of that name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"The device {name!r} cannot be used ({reason}); choose cpu, or auto.") from error


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on a device: free on the GPU, or in the container and the machine.

    Memory that torch's allocator holds on a GPU without using it counts as free.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    free = [_machine("MemAvailable", "SC_AVPHYS_PAGES")]
    with suppress(OSError, ValueError):  # no control group, or one without a limit ("max")
        names = ("memory.max", "memory.current", "memory.stat")
        limit, used, parts = ((_CGROUP / name).read_text(encoding="utf-8") for name in names)
        files = dict(line.split() for line in parts.splitlines()).get("inactive_file", 0)  # makes room for others
        free.append(int(limit) - int(used) + int(files))
    return max(0, min(free))


def unheld_bytes(device: torch.device) -> int:
    """Bytes that nobody holds, not even torch's allocator, which keeps on a GPU what is replayed there."""
    if device.type != "cuda":
        return free_bytes(device)
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info(device)[0])


def capacity_bytes(device: torch.device) -> int:
    """Bytes that a device has in all, free or not.

    The number is the same at every run, so that settings that follow from it, such as tiles, give the same picture.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    total = [_machine("MemTotal", "SC_PHYS_PAGES")]
    with suppress(OSError, ValueError):
        total.append(int((_CGROUP / "memory.max").read_text(encoding="utf-8")))
    return min(total)


def _machine(line: str, pages: str) -> int:
    """Bytes of the machine's memory, by a line of Linux's /proc/meminfo or a name of `os.sysconf`."""
    try:
        lines = dict(line.split(":", 1) for line in _MEMORY.read_text(encoding="utf-8").splitlines())
        return int(lines[line].split()[0]) * 1024
    except (OSError, KeyError):
        pass
    try:
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no such call, macOS no free pages
        return _ASSUMED


def reset_peak(device: torch.device) -> None:
    """Let `peak_bytes` measure from now on; where the system cannot, it measures since the process began."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        _CLEAR.write_text("5", encoding="ascii")


def peak_bytes(device: torch.device) -> int:
    """Most bytes in use since `reset_peak`: allocated by torch on a GPU, resident of the whole process elsewhere.

    0 where the system does not tell.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def released(error: E) -> E:
    """Cut an error off from its stack frames, which keep the tensors of the failed computation in memory.

    Call it within the `except`, and try again after the `except`: the memory is free then.
    """
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def is_memory(error: Exception) -> bool:
    """Whether memory ran out: of the process, of a GPU, or of torch's allocator, which says so in words only."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)

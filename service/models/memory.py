"""Bytes of networks, and how an allocator says that there are no more."""

from __future__ import annotations

import re

import torch
from torch import nn

_ALLOCATOR = re.compile(r"DefaultCPUAllocator|can't allocate memory|out of memory|CUBLAS_STATUS_ALLOC_FAILED", re.I)


def bytes_of(module: nn.Module) -> int:
    """Of parameters and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had. On a CPU torch says so by a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _ALLOCATOR.search(str(error)) is not None


def release() -> None:
    """Give back what torch keeps for later."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()

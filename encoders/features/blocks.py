"""Which layers stand for a model when none is named: its top-level ones, or the blocks of its one stack of blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def main_layers(module: nn.Module, layers: Sequence[str]) -> list[str]:
    """The top-level layers; if the model has a single stack of blocks, its blocks in place of what holds the stack.

    A stack is a Sequential or ModuleList of modules that have modules of their own, within no other stack. A vision
    transformer has one, `blocks` or `encoder.layer`; a ResNet has one a stage, and they are top-level layers.

    Parameters
    ----------
    layers : module paths to choose from, of which a stack has some if it counts.
    """
    used = [stack for stack in _stacks(module) if any(name.startswith(f"{stack}.") for name in layers)]
    if len(used) != 1:
        return [name for name in layers if "." not in name]
    holder = used[0].partition(".")[0]
    return [n for n in layers if n.rpartition(".")[0] == used[0] or ("." not in n and n != holder)]


def _stacks(module: nn.Module) -> list[str]:
    found: list[str] = []
    for name, part in module.named_modules():
        if not name or not isinstance(part, nn.Sequential | nn.ModuleList) or not len(part):
            continue
        inside = any(name.startswith(f"{stack}.") for stack in found)
        if not inside and all(any(True for _ in block.children()) for block in part):
            found.append(name)
    return found

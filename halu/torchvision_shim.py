"""Declares two torchvision operators where torchvision's own library cannot load them.

A CUDA build of torchvision beside a CPU build of torch fails at import with "operator
torchvision::nms does not exist", and takes transformers' and open_clip's vision imports down with
it. No CPU build of torchvision is on the package index. halu uses none of its compiled operators,
so declaring them is enough.
"""

import importlib.util

import torch

_library: torch.library.Library | None = None


def apply() -> None:
    """Declare the operators if torchvision is installed, not imported yet, and cannot register them
    itself.
    """
    global _library
    if (
        _library is not None
        or torch.version.cuda
        or importlib.util.find_spec("torchvision") is None
    ):
        return
    if hasattr(torch.ops.torchvision, "nms"):
        return
    _library = torch.library.Library("torchvision", "DEF")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

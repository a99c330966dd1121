"""Declares two torchvision operators where torchvision's own library cannot load them.

A CUDA build of torchvision beside a CPU build of torch fails at import with "operator
torchvision::nms does not exist", and takes transformers' and open_clip's vision imports down with
it. No CPU build of torchvision is on the package index. halu uses none of its compiled operators,
so declaring them is enough.
"""

import importlib
import importlib.util

import torch

_library: torch.library.Library | None = None


def apply() -> None:
    """Declare the operators if torchvision is installed and its import fails for want of them."""
    global _library
    if _library is not None or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _library = torch.library.Library("torchvision", "DEF")
        _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

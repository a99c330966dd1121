"""Model families. transformers is imported here and nowhere else in the decoding path."""

from halu import torchvision_shim

torchvision_shim.apply()

import transformers

from halu.adapters.adapter import Adapter
from halu.adapters.loading import (
    bare_adapter,
    folder_of,
    load_adapter,
    supported,
)

__all__ = ["Adapter", "bare_adapter", "folder_of", "load_adapter", "supported", "transformers"]

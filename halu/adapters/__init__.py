"""Model families. transformers is imported here and nowhere else in the decoding path."""

from halu import torchvision_shim

torchvision_shim.apply()

import transformers  # noqa: E402

from halu.adapters.adapter import Adapter  # noqa: E402
from halu.adapters.loading import (  # noqa: E402
    bare_adapter,
    folder_of,
    load_adapter,
    supported,
)

__all__ = ["Adapter", "bare_adapter", "folder_of", "load_adapter", "supported", "transformers"]

"""Model families. transformers is imported here and nowhere else in the decoding path."""

from halu import torchvision_shim

torchvision_shim.apply()

import transformers  # noqa: E402

from halu.adapters.adapter import Adapter  # noqa: E402
from halu.adapters.loading import load_adapter, supported  # noqa: E402

__all__ = ["Adapter", "load_adapter", "supported", "transformers"]

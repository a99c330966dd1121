"""The recipe that trained the built-in models: one command each, from nothing to a Hugging Face
folder with its card.
"""

from halu import torchvision_shim

# Before any import of transformers' vision parts in this package.
torchvision_shim.apply()

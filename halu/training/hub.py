"""Writes a model folder with the key names that the hub's checkpoints use.

transformers 5 renames vision keys when it saves; vLLM reads only the hub's names, and
transformers reads both.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, PreTrainedModel

LLAVA_NAMES = (
    ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)
QWEN_NAMES = (
    ("model.visual.", "visual."),
    ("model.language_model.", "model."),
    ("lm_head.", "lm_head."),
)


def renamed(key: str, names: tuple[tuple[str, str], ...]) -> str:
    """The hub's name of one weight; an unknown key is an error, never a silent pass."""
    for ours, theirs in names:
        if key.startswith(ours):
            return theirs + key[len(ours) :]
    raise KeyError(f"no hub name is known for the weight {key!r}")


def write(
    model: PreTrainedModel, folder: Path, names: tuple[tuple[str, str], ...], eos: int, pad: int
) -> None:
    """config.json, generation_config.json and model.safetensors in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.dtype = torch.float32
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    generation = GenerationConfig(
        do_sample=False, max_new_tokens=64, eos_token_id=eos, pad_token_id=pad
    )
    generation.bos_token_id = model.config.get_text_config().bos_token_id
    generation.save_pretrained(folder)
    weights = {
        renamed(key, names): value.detach().to("cpu", torch.float32).contiguous().clone()
        for key, value in model.state_dict().items()
    }
    path = folder / "model.safetensors"
    save_file(weights, path, metadata={"format": "pt"})
    # save_file leaves it readable to its owner alone, and so would an installed package.
    path.chmod(0o644)

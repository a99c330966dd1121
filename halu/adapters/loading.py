"""From a name to an adapter: built-in models by name, folders, hub ids. Never runs code from a
checkpoint.
"""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
)

from halu.adapters.adapter import Adapter, unsupported
from halu.adapters.llava import Llava, LlavaNext
from halu.adapters.qwen_vl import QwenVL
from halu.errors import BadInput, Unavailable, Unknown
from halu.hub import reach
from halu.models import builtin

ADAPTERS: tuple[type[Adapter], ...] = (Llava, LlavaNext, QwenVL)


def supported() -> tuple[str, ...]:
    """Model types (transformers' `model_type`) that have an adapter."""
    return tuple(family for adapter in ADAPTERS for family in adapter.families)


def adapter_class(model_type: str) -> type[Adapter]:
    """The adapter of a model type.

    Raises:
        Unsupported: naming the supported ones.
    """
    for adapter in ADAPTERS:
        if model_type in adapter.families:
            return adapter
    raise unsupported(f"Architecture {model_type!r}", supported())


def without_progress_bars() -> None:
    """Keeps transformers from drawing its own progress bars in this process."""
    transformers.utils.logging.disable_progress_bar()


def load_adapter(name: str, *, device: str | None = None, dtype: str | None = None) -> Adapter:
    """Loads a model.

    Args:
        name: built-in name, folder, or Hugging Face id.
        device: torch device; by default cuda where there is one, else cpu.
        dtype: torch dtype name, or "auto", the checkpoint's own; by default that on cuda, float32
            on cpu.

    Raises:
        Unknown: no such built-in model, folder or cached hub id.
        BadInput: a folder without weights or with a broken configuration.
        Unsupported: an architecture without an adapter.
        Unavailable: the device does not exist here, or the hub is out of reach.
    """
    source, adapter, where, kind = _looked_up(name, device, dtype)
    try:
        model, found = AutoModelForImageTextToText.from_pretrained(
            source,
            dtype=kind,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadInput(
            f"Model {name!r} cannot be loaded.", hint=_first_line(error), param="model"
        ) from error
    if found["missing_keys"]:
        missing = ", ".join(sorted(found["missing_keys"])[:3])
        raise BadInput(f"The weights of {name!r} are incomplete.", hint=f"Missing: {missing} ...")
    return adapter(name, model.eval().to(where), processor)


def check_model(name: str, *, device: str | None = None, dtype: str | None = None) -> None:
    """Refuses what `load_adapter` would refuse before it reads weights: a matter of milliseconds.

    Raises:
        HaluError: as `load_adapter`.
    """
    _looked_up(name, device, dtype)


def place(device: str | None, dtype: str | None) -> tuple[str, str]:
    """Device and dtype of a model that is loaded with these; dtype "auto" is the checkpoint's."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return device, dtype or ("auto" if device.startswith("cuda") else "float32")


def bare_adapter(name: str) -> Adapter:
    """A model without its weights: conversations become prompts, sizes are known, nothing runs.

    Args:
        name: built-in name, folder, or Hugging Face id.

    Raises:
        HaluError: as `load_adapter`.
    """
    source, config = _configured(name)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    try:
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
        model.generation_config = _generation(source, config)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"Model {name!r} cannot be loaded.", hint=_first_line(error), param="model"
        ) from error
    return adapter_class(config.model_type)(name, model.eval(), processor)


def _generation(source: str, config: Any) -> GenerationConfig:
    """What a checkpoint says of ends and penalties, in a file that some do not have."""
    try:
        return GenerationConfig.from_pretrained(source)
    except OSError:
        return GenerationConfig.from_model_config(config)


def folder_of(name: str) -> str:
    """What other libraries call a model: a built-in model's folder; otherwise the name itself.

    Raises:
        Unknown: no such built-in model or folder.
        BadInput: a folder without weights or with a broken configuration.
    """
    return _source(name)


def _looked_up(
    name: str, device: str | None, dtype: str | None
) -> tuple[str, type[Adapter], torch.device, torch.dtype | str]:
    """What a model is loaded from, by which adapter, where to, and as what."""
    device, dtype = place(device, dtype)
    where, kind = _device(device), _dtype(dtype)
    source, config = _configured(name)
    return source, adapter_class(config.model_type), where, kind


def _configured(name: str) -> tuple[str, Any]:
    source = _source(name)
    try:
        reach(source)
        return source, AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(name, source, error) from error


def _device(device: str) -> torch.device:
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise Unavailable(
            f"Device {device!r} is not available here.", hint=_first_line(error)
        ) from error
    return where


def _dtype(name: str) -> torch.dtype | str:
    if name == "auto":
        return name
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise BadInput(
            f"Unknown dtype {name!r}.",
            hint="For example float32, bfloat16, float16.",
            param="dtype",
        )
    return found


def _source(name: str) -> str:
    built_in = builtin()
    if name in built_in:
        return str(built_in[name])
    folder = Path(name)
    if folder.is_dir():
        _check_folder(folder)
        return name
    if name.count("/") != 1 or folder.is_absolute() or name.startswith("."):
        raise Unknown("model", name, built_in, param="model")
    return name


def _check_folder(folder: Path) -> None:
    config = folder / "config.json"
    if not config.is_file():
        raise BadInput(
            f"Folder {str(folder)!r} has no config.json.", hint="Give a Hugging Face model folder."
        )
    try:
        model_type = json.loads(config.read_text()).get("model_type", "")
    except (ValueError, AttributeError):
        raise BadInput(f"{config} is not valid JSON.") from None
    adapter_class(model_type)
    if not any(folder.glob("*.safetensors")):
        raise BadInput(
            f"Folder {str(folder)!r} has no weights (*.safetensors).",
            hint="Other formats are never loaded.",
        )


def _unreadable(name: str, source: str, error: Exception) -> Exception:
    if Path(source).is_dir():
        return BadInput(f"The configuration of {name!r} cannot be read.", param="model")
    if isinstance(error, ConnectionError) or isinstance(error.__cause__, LocalEntryNotFoundError):
        return Unavailable(
            f"Model {name!r} is not on this machine, and its hub could not be reached.",
            hint="Connect, or name a folder that holds the model.",
            param="model",
        )
    said = f"The hub said: {_first_line(error)}"
    return Unknown("model", name, builtin(), param="model", because=said)


def _first_line(error: BaseException) -> str:
    text: Any = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__

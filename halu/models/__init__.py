"""The built-in trained models, as ordinary Hugging Face folders."""

from pathlib import Path


def builtin() -> dict[str, Path]:
    """Name to folder of every vision-language model that is shipped."""
    here = Path(__file__).parent
    return {
        folder.name: folder
        for folder in sorted(here.iterdir())
        if (folder / "config.json").is_file()
    }

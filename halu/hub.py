"""Whether the hub can be asked for what is not on this machine yet.

The hub's library asks again and again, for half a minute, where there is no network at all. One
question beforehand tells at once.
"""

from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.file_download import repo_folder_name

_PATIENCE = 10.0
"""Seconds until the hub counts as out of reach."""


def reach(source: str) -> None:
    """Ask the hub once for a repository of which nothing is here; folders are left alone.

    Args:
        source: a folder or hub id.

    Raises:
        ConnectionError: if the hub does not answer. What it answers is for the loader to read.
    """
    if Path(source).is_dir() or source.count("/") != 1 or _kept(source):
        return
    try:
        get_hf_file_metadata(hf_hub_url(source, "config.json"), timeout=_PATIENCE)
    except (HfHubHTTPError, OfflineModeIsEnabled, ValueError):
        return
    except (
        Exception
    ) as error:  # of the HTTP library below, which is another from version to version
        raise ConnectionError("The hub could not be reached.") from error


def _kept(repo: str) -> bool:
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    return any(folder.glob("snapshots/*/*"))

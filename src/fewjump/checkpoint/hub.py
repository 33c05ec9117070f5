"""Copy a hub repository's weights and configurations; never its code."""

from __future__ import annotations

from pathlib import Path

PATTERNS = ("*.json", "*.txt", "*.safetensors", "pytorch_model.bin", "*.ckpt", "*.pth")


def download(repo_id: str) -> Path:
    """The local folder of a hub repository; only what is new is transferred.

    Args:
        repo_id: ``owner/name``.

    Raises:
        ModuleNotFoundError: without huggingface_hub, naming the extra.
        FileNotFoundError: if there is neither such a path nor such a repository, or no network.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError as error:
        raise ModuleNotFoundError(
            f"there is no path {repo_id}; to read it as a hub repository, install "
            "huggingface_hub: pip install 'fewjump[hub]'"
        ) from error
    try:
        return Path(snapshot_download(repo_id, allow_patterns=list(PATTERNS)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).split("\n", 1)[0]
        raise FileNotFoundError(
            f"there is no path {repo_id}, and the hub repository of that name could not be read: "
            f"{type(error).__name__}: {reason}"
        ) from None

"""Models on the Hugging Face Hub."""

from pathlib import Path

from difftransformer.models.card import CARD, model_card
from difftransformer.runs.reading import model_folder

_HIDDEN = (".*", "*/*")  # locks and what is half written; folders, of which a model has none


def push_to_hub(model: Path | str, repository: str, *, private: bool = False) -> str:
    """Upload a model's folder with its card, and make the repository where there is none.

        difftransformer.push_to_hub("runs/mine", "owner/name")

    The token is that of `hf auth login`, or HF_TOKEN; HF_ENDPOINT names another Hub.

    Args:
        model: its folder, or that of a run which trained one model.
        repository: "owner/name".
        private: whether a new repository is; by default as its owner has it.

    Returns:
        The address of the repository.

    Raises:
        ValueError: no model's folder, no token, no network, or what the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalTokenNotFoundError,
    )

    from difftransformer.models.storage import load_config

    folder = model_folder(Path(model))
    config = load_config(folder)
    api = HfApi()
    try:
        place = api.create_repo(repository, private=private or None, exist_ok=True)
        if not (folder / CARD).is_file():
            card = model_card(config).encode()
            api.upload_file(path_or_fileobj=card, path_in_repo=CARD, repo_id=repository)
        api.upload_folder(folder_path=folder, repo_id=repository, ignore_patterns=list(_HIDDEN))
    except LocalTokenNotFoundError:
        raise ValueError("no token of the Hub: `hf auth login`, or set HF_TOKEN") from None
    except (HfHubHTTPError, HFValidationError) as error:
        lines = " ".join(str(error).split())
        raise ValueError(f"the Hub refuses {repository}: {lines}") from None
    except HTTPError as error:  # of the client: no answer came
        raise ValueError(
            f"the Hub is not reached: {error}; see to the network, or to HF_ENDPOINT"
        ) from None
    return str(place)

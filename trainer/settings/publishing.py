"""What a finished file tells its finders about itself, and where it is shared."""

from typing import ClassVar

from trainer.declare import Section, setting


class Metadata(Section):
    """Kept in the file, for people and programs that find it; what is empty is left out."""

    tab: ClassVar[str] = "Folders"
    title: ClassVar[str] = "Metadata"

    metadata_title: str = setting("", "Metadata title", "What the LoRA is called; empty: the output name.")
    metadata_author: str = setting("", "Metadata author", "Who made it.")
    metadata_description: str = setting("", "Metadata description", "What it shows and how it is used.")
    metadata_trigger_phrase: str = setting(
        "",
        "Metadata trigger phrase",
        "The words that call it up in a prompt, such as sks cat; many programs show them.",
    )
    metadata_license: str = setting("", "Metadata license", "What others may do with it, such as CC0.")
    metadata_tags: str = setting("", "Metadata tags", "Words to find it by, with commas between them.")


class HuggingFace(Section):
    """Every saved file is uploaded to a repository of yours on the hub; a failed upload never stops the training."""

    tab: ClassVar[str] = "Parameters > HuggingFace"
    title: ClassVar[str] = "HuggingFace"

    huggingface_repo_id: str = setting(
        "", "Huggingface repo id", "The repository, such as anna/cats; made if it is not there. Empty: no upload."
    )
    huggingface_token: str = setting(
        "",
        "Huggingface token",
        "Empty: the variable HF_TOKEN, or what hf auth login stored, is used. It is written to no file.",
        secret=True,
    )
    huggingface_repo_type: str = setting(
        "", "Huggingface repo type", "What kind of repository it is. Empty: model, which is right for LoRAs.", choices=("", "model", "dataset", "space")
    )
    huggingface_repo_visibility: str = setting(
        "",
        "Huggingface repo visibility",
        "Who may see a repository that is made now. Empty: private.",
        choices=("", "private", "public"),
    )
    huggingface_path_in_repo: str = setting(
        "", "Huggingface path in repo", "A folder in the repository for the files; empty: none."
    )
    save_state_to_huggingface: bool = setting(
        False, "Save state to huggingface", "Upload training states too, each several times the size of the file."
    )
    resume_from_huggingface: str = setting(
        "",
        "Resume from huggingface",
        "A training state there to go on from, such as anna/cats/FOLDER, or with :revision.",
    )
    async_upload: bool = setting(
        False, "Async upload", "Upload in the background; off: the training waits for each upload."
    )

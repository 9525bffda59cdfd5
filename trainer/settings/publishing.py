"""What a finished file tells its finders about itself."""

from typing import ClassVar

from trainer.declare import Section, setting


class Metadata(Section):
    """Kept in the file, for people and programs that find it; what is empty is left out."""

    tab: ClassVar[str] = "Folders"
    title: ClassVar[str] = "Metadata"

    metadata_title: str = setting("", "Metadata title", "What the LoRA is called; empty: the output name.")
    metadata_author: str = setting("", "Metadata author", "Who made it.")
    metadata_description: str = setting(
        "", "Metadata description", "What it shows and how it is used; the trigger words too."
    )
    metadata_license: str = setting("", "Metadata license", "What others may do with it, such as CC-BY-4.0.")
    metadata_tags: str = setting("", "Metadata tags", "Words to find it by, with commas between them.")

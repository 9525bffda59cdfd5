"""Where pictures come from and where results go."""

from typing import ClassVar

from trainer.declare import Section, setting


class Folders(Section):
    """Where your pictures are, and where the finished LoRA goes."""

    tab: ClassVar[str] = "Folders"
    title: ClassVar[str] = "Folders"

    train_data_dir: str = setting(
        "",
        "Image folder",
        "The parent folder: it holds folders named like 10_cat. 10 = repeats, how often each picture is shown per epoch; "
        "cat = the caption of pictures that have none.",
        kind="folder",
        aside="(containing training images subfolders)",
    )
    output_dir: str = setting(
        "", "Output directory for trained model", "The output folder: the finished LoRA is written here.", kind="folder"
    )
    reg_data_dir: str = setting(
        "",
        "Regularisation directory",
        "The regularisation folder: class images, pictures of ordinary things of the same kind, in folders like 1_cat, so that the model does not forget them. "
        "They double the steps.",
        kind="folder",
        aside="(Optional. containing regularisation images)",
    )
    logging_dir: str = setting(
        "",
        "Logging directory",
        "The logging folder: TensorBoard logs are written here; empty: into the run's own folder.",
        kind="folder",
        aside="(Optional. to enable logging and output Tensorboard log)",
    )
    output_name: str = setting(
        "last", "Trained Model output name", "The name of the file, without its ending. A version at the end helps: mycat-v1."
    )
    overwrite_output: bool = setting(
        False,
        "Replace files of this name",
        "Off: a run does not start when the output folder already holds a file of this name.",
    )
    training_comment: str = setting(
        "",
        "Training comment",
        "Kept in the file; web UIs show it behind the info button. A good place for the trigger words.",
    )

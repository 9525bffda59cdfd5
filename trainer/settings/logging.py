"""Where the curves of a run go beside the page."""

from typing import ClassVar

from trainer.declare import Section, setting

WITH_WANDB = ("wandb", "all")
"""Values of "Logging" that ask for Weights & Biases."""


class Logging(Section):
    """TensorBoard logs are always written; Weights & Biases gets the same curves and pictures when it is chosen."""

    tab: ClassVar[str] = "Parameters > Advanced"
    title: ClassVar[str] = "Logging"

    log_with: str = setting(
        "", "Logging", "wandb or all also sends curves and samples to Weights & Biases; empty and tensorboard are TensorBoard alone.",
        choices=("", "wandb", "tensorboard", "all"), advanced=True,
    )  # fmt: skip
    wandb_api_key: str = setting(
        "", "WANDB API Key", "Empty: the variable WANDB_API_KEY, or what wandb login stored, is used. It is written to no file.",
        secret=True, when={"log_with": WITH_WANDB}, advanced=True,
    )  # fmt: skip
    wandb_run_name: str = setting(
        "", "WANDB run name", "What the run is called at Weights & Biases. Empty: the output name.",
        when={"log_with": WITH_WANDB}, advanced=True,
    )  # fmt: skip
    log_config: bool = setting(
        False, "Log config", "All settings, without secrets, are logged too, so that runs can be compared by them.", advanced=True
    )
    log_tracker_name: str = setting(
        "", "Log tracker name", "The project at Weights & Biases, and a folder within the run's logs. Empty: network_train, and no folder.",
        advanced=True,
    )  # fmt: skip
    log_tracker_config: str = setting(
        "", "Log tracker config", 'A TOML file with tables [wandb] and [tensorboard] of further options, such as entity = "team". Usually empty.',
        kind="file", advanced=True,
    )  # fmt: skip
    log_prefix: str = setting(
        "", "Log prefix", "Put before the name of the run's folder in Logging folder. Usually empty.", advanced=True
    )

"""Every setting of a training run, one file a section; `Settings` is all of them, flat and frozen."""

from trainer.declare import Section
from trainer.settings.additional import Additional
from trainer.settings.blocks import BlockRates, BlockSizes, ConvSizes
from trainer.settings.captions import CaptionFiles, Captions
from trainer.settings.dataset import Augmentation, DatasetConfig, Images, Loading
from trainer.settings.folders import Folders
from trainer.settings.hardware import Compiling, Memory, Precision
from trainer.settings.logging import Logging
from trainer.settings.lycoris import Lycoris
from trainer.settings.model import Family, OwnVae, SourceModel
from trainer.settings.network import LoraType, Network
from trainer.settings.noise import Loss
from trainer.settings.optimizer import Duration, Rates
from trainer.settings.processes import Processes
from trainer.settings.publishing import HuggingFace, Metadata
from trainer.settings.samples import Samples
from trainer.settings.saving import Saving, States
from trainer.settings.sdxl import Sdxl

SECTIONS: tuple[type[Section], ...] = (
    SourceModel, Family, Folders, DatasetConfig, Metadata, LoraType, Duration, Rates, Network, Lycoris, Images, Sdxl, CaptionFiles, Saving,
    Precision, Captions, Augmentation, Loading, Loss, OwnVae, Memory, States, BlockRates, BlockSizes, ConvSizes, Compiling,
    Processes, Logging, Additional, Samples, HuggingFace,
)  # fmt: skip
"""In the order of the page."""


class Settings(
    SourceModel, Family, Folders, DatasetConfig, Metadata, LoraType, Duration, Rates, Network, Lycoris, Images, Sdxl, CaptionFiles, Saving,
    Precision, Captions, Augmentation, Loading, Loss, OwnVae, Memory, States, BlockRates, BlockSizes, ConvSizes, Compiling,
    Processes, Logging, Additional, Samples, HuggingFace,
):  # fmt: skip
    """What the user decides about a training run. Read, never written."""

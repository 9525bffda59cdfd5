"""Pictures made while training, to see it learn."""

from typing import ClassVar

from trainer.declare import Section, setting
from trainer.samplers import NAMES


class Samples(Section):
    """Pictures made while training, to see it learn."""

    tab: ClassVar[str] = "Parameters > Samples"
    title: ClassVar[str] = "Samples"

    sample_every_n_steps: int = setting(0, "Sample every n steps", "Draw the sample prompts after every so many steps, such as 200. 0 = not by steps.", ge=0, soft_max=1000)
    sample_every_n_epochs: int = setting(0, "Sample every n epochs", "Draw the sample prompts after every so many epochs, 1 for each; wins over Sample every n steps. 0 = not by epochs.", ge=0, soft_max=100)
    sample_at_first: bool = setting(False, "Sample at first", "Also before the first step, to compare with.")
    sample_sampler: str = setting("euler_a", "Sample sampler", "The method that draws the sample pictures: euler_a is usual, ddim and euler change less from step to step. The training is the same with any.", choices=NAMES)
    sample_prompts: str = setting(
        "",
        "Sample prompts",
        "One picture a line, (word:1.3) counts more. --n what not to show, --w width, --h height, --d seed, --l guidance, --s steps, "
        "--ss sampler. Lines that begin with # rest. A picture's text from a web UI works too, and so does the path of a file.",
        kind="lines",
    )

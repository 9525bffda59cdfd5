"""Several processes, graphics cards and machines at one training, by the names of `accelerate launch`."""

from typing import ClassVar

from trainer.declare import Section, setting


class Processes(Section):
    """Several processes learn one LoRA together: each takes its share of every step, and what they learnt is added up."""

    tab: ClassVar[str] = "Parameters > Advanced"
    title: ClassVar[str] = "Accelerate launch"

    num_processes: int = setting(
        1, "Number of processes", "Processes that train together, over all machines: one a graphics card. A step shows that many times more pictures.",
        ge=1, le=1024, soft_max=8,
    )  # fmt: skip
    multi_gpu: bool = setting(
        False, "Multi GPU", "Insist on a graphics card for each process: where there are too few, the run does not start."
    )
    gpu_ids: str = setting(
        "", "GPU IDs", "Which graphics cards of this machine may be used, such as 0,1. Empty: as many as needed, from the first."
    )
    num_machines: int = setting(
        1, "Number of machines", "Machines that train together. Start the same settings on each, with its own Machine rank.",
        ge=1, le=256, soft_max=8, advanced=True,
    )  # fmt: skip
    machine_rank: int = setting(
        0, "Machine rank", "Which of the machines this is. 0 is the main one: it shows the run, draws the samples and saves.",
        ge=0, le=255, soft_max=7, advanced=True,
    )  # fmt: skip
    main_process_ip: str = setting(
        "", "Main process IP", "Address of the machine with rank 0, where the others find it, such as 192.168.1.20. Needed with several machines only.",
        advanced=True,
    )  # fmt: skip
    main_process_port: int = setting(
        0, "Main process port", "Port on which the processes meet. 0: any free one; several machines must agree on one, such as 29500.",
        ge=0, le=65535, advanced=True,
    )  # fmt: skip
    extra_accelerate_launch_args: str = setting(
        "", "Extra accelerate launch arguments",
        "Flags of accelerate launch, such as --num_processes 2 --rdzv_conf timeout=600. They win over the fields above.", advanced=True,
    )  # fmt: skip

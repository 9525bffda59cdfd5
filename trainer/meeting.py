"""Where the processes of a run find each other: torch's key-value store, kept by the launcher of the main machine.

On one machine it listens on the loopback alone. Several machines meet at "Main process IP" and "Main process port":
each launcher says which settings it has and waits until all have come; later they pass on a stop, and how it ended.
"""

from __future__ import annotations

import errno
import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psutil

from trainer.declare import PATHS, settings_of
from trainer.flags import KNOWN, Launch
from trainer.report import Failure, Stopped

if TYPE_CHECKING:
    from torch.distributed import TCPStore

    from trainer.report import Reporter
    from trainer.settings import Settings

LOOPBACK = "127.0.0.1"
LOOK_EVERY = 0.2
BEAT_EVERY, BEAT_PATIENCE = 5.0, 90.0
"""Seconds between two signs of life of a machine, and without one until it counts as gone."""

STOP, BEGIN, END = "stop", "begin", "end"


class Meeting:
    """The launchers of all machines, as this one sees them."""

    def __init__(self, launch: Launch, report: Reporter) -> None:
        """Open the store, or find it. Raises `Failure` with a sentence, `Stopped` when asked to stop meanwhile."""
        s = launch.settings
        self.launch, self.report = launch, report
        self.machine, self.machines = s.machine_rank, s.num_machines
        self.host = s.main_process_ip.strip() if self.machines > 1 else LOOPBACK
        self._until = time.monotonic() + launch.wait
        self.port, self.store = self._open() if self.is_main else self._find()
        self._beats: dict[int, tuple[str, float]] = {}
        self._beaten = 0.0

    @property
    def is_main(self) -> bool:
        """Whether this is the main machine."""
        return self.machine == 0

    @property
    def where(self) -> str:
        """The address, as people write it."""
        return f"{self.host}:{self.port}"

    def _open(self) -> tuple[int, TCPStore]:
        from torch.distributed import TCPStore

        asked = self.launch.settings.main_process_port
        try:
            family, *_, address = socket.getaddrinfo(self.host, asked, type=socket.SOCK_STREAM)[0]
            listener = socket.create_server(address[:2], family=family, backlog=1024)
        except OSError as error:
            raise self._cannot_listen(error, asked) from error
        port = int(listener.getsockname()[1])
        options: dict[str, Any] = {"master_listen_fd": listener.detach()}
        if sys.platform == "win32":  # it knows no such numbers, and its builds may lack libuv
            socket.close(options.pop("master_listen_fd"))
            options = {"use_libuv": False}
        return port, TCPStore(self.host, port, is_master=True, wait_for_workers=False, **options)

    def _cannot_listen(self, error: OSError, port: int) -> Failure:
        if isinstance(error, socket.gaierror) or error.errno in (errno.EADDRNOTAVAIL, 10049):
            reason = f"Main process IP: {self.host} is no address of this machine, whose Machine rank is 0."
            return Failure(reason, "Give an address of the machine with rank 0, on every machine.", "main_process_ip")
        if error.errno in (errno.EADDRINUSE, 10048):
            reason = f"Main process port: {port} is in use on this machine, perhaps by another training."
            advice = "Choose another one." if self.machines > 1 else "Choose another one, or 0 for any that is free."
            return Failure(reason, advice, "main_process_port")
        reason = f"Main process port: {port} cannot be opened ({error.strerror or error})."
        return Failure(reason, "Choose one above 1023, such as 29500.", "main_process_port")

    def _find(self) -> tuple[int, TCPStore]:
        from torch.distributed import TCPStore

        port, trouble = self.launch.settings.main_process_port, ""
        while True:
            self._waiting(0)
            try:
                socket.create_connection((self.host, port), timeout=5).close()
                return port, TCPStore(
                    self.host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=20)
                )
            except OSError as error:
                trouble = str(error.strerror or error).lower()
            except RuntimeError:
                trouble = "something else answers there"
            if time.monotonic() > self._until:
                raise Failure(
                    f"Nobody answered at {self.host}:{port} within {self.launch.wait:g} seconds ({trouble}).",
                    "Start the run on the machine with Machine rank 0, too; check that Main process IP and Main "
                    "process port are the same there, and that its firewall lets the port through.",
                    "main_process_ip",
                )
            time.sleep(min(0.5, self.launch.wait / 10))

    def _waiting(self, came: int) -> None:
        self.report.phase("waiting for the other machines", came, self.machines)
        if self.report.stopping():
            raise Stopped("Stopped while waiting for the other machines; nothing was trained.")

    def gather(self) -> None:
        """Wait until every machine is here, with the same settings."""
        if self.machines == 1:
            return
        own = alike(self.launch.settings)
        self.store.set(f"hello {self.machine}", json.dumps(own))
        if not self.is_main:
            self._wait_for_the_beginning()
            return
        try:
            for other in range(1, self.machines):
                self._welcome(other, own)
        except Failure as failure:
            self.end("failed", failure.reason, failure.advice)
            raise
        except Stopped:
            self.end("stopped", "Stopped on the main machine.")
            raise
        self.store.set(BEGIN, "1")

    def _wait_for_the_beginning(self) -> None:
        while not self.heard(BEGIN):
            self._waiting(1)
            self.hear_the_end()
            if time.monotonic() > self._until:
                raise Failure(
                    f"{self.where} answered, but not all {self.machines} machines came within "
                    f"{self.launch.wait:g} seconds.",
                    "Start the run on every machine, each with its own Machine rank.",
                    "num_machines",
                )
            time.sleep(LOOK_EVERY)

    def _welcome(self, other: int, own: dict[str, Any]) -> None:
        while not self.heard(f"hello {other}"):
            self._waiting(other)
            if time.monotonic() > self._until:
                raise Failure(
                    f"Machine {other + 1} of {self.machines} did not come to {self.where} within "
                    f"{self.launch.wait:g} seconds.",
                    f"Start the same settings there with Machine rank {other}; the firewall here must let port "
                    f"{self.port} through.",
                    "num_machines",
                )
            time.sleep(LOOK_EVERY)
        theirs = json.loads(self.store.get(f"hello {other}"))
        different = [key for key in own if theirs.get(key) != own[key]]
        if different:
            key = different[0]
            raise Failure(
                f"{KNOWN[key].label} is {theirs.get(key)!r} on machine {other + 1} and {own[key]!r} on the main one.",
                "Use the same settings on all machines; only folders, GPU IDs and Machine rank may differ.",
                key,
            )

    # While it runs.

    def heard(self, word: str) -> bool:
        """Whether anybody said this. Raises `Failure` when the main machine is gone."""
        with self._main_may_be_gone():
            return bool(self.store.check([word]))

    def say(self, word: str, text: str = "1") -> None:
        """Tell everybody."""
        with self._main_may_be_gone():
            self.store.set(word, text)

    def end(self, state: str, reason: str = "", advice: str = "") -> None:
        """Tell everybody how the run ended, unless somebody did before."""
        if self.machines > 1 and not self.heard(END):
            self.say(END, json.dumps([state, reason, advice]))

    def hear_the_end(self) -> bool:
        """Whether the run is over on some machine: finished; raises `Failure` or `Stopped` when it ended otherwise."""
        if self.machines == 1 or not self.heard(END):
            return False
        with self._main_may_be_gone():
            state, reason, advice = json.loads(self.store.get(END))
        if state == "stopped":
            raise Stopped(reason)
        if state != "finished":
            raise Failure(reason, advice)
        return True

    def live(self) -> None:
        """Give a sign of life, and notice when the others give none; costs nothing when called often."""
        now = time.monotonic()
        if self.machines == 1 or now - self._beaten < BEAT_EVERY:
            return
        self._beaten = now
        if not self.is_main:
            self.say(f"beat {self.machine}", str(now))
            return
        for other in range(1, self.machines):
            beat = self.store.get(f"beat {other}").decode() if self.heard(f"beat {other}") else ""
            before, since = self._beats.get(other, (None, now))
            self._beats[other] = (beat, now if beat != before else since)
            if now - self._beats[other][1] > BEAT_PATIENCE:
                raise Failure(
                    f"Machine {other + 1} of {self.machines} has not been heard of for {BEAT_PATIENCE:g} seconds.",
                    "Look at its log and at the network; Resume goes on from the last saved state.",
                )

    def part(self) -> None:
        """Stay until the others have heard how it ended: the store ends with us."""
        if self.machines == 1:
            return
        if not self.is_main:
            self.say(f"bye {self.machine}")
            return
        until = time.monotonic() + 15
        while time.monotonic() < until and not all(self.heard(f"bye {other}") for other in range(1, self.machines)):
            time.sleep(LOOK_EVERY)

    @contextmanager
    def _main_may_be_gone(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = f"The main machine at {self.where} does not answer any more."
            raise Failure(
                reason, "Its page or log tells why; Resume there goes on from the last saved state."
            ) from error


def alike(s: Settings) -> dict[str, Any]:
    """The settings that all machines must have in common: all but places and what this machine has to itself."""
    own = {"machine_rank", "gpu_ids", "extra_accelerate_launch_args", "num_cpu_threads_per_process", "output_name"}
    places = {item.name for item in settings_of(type(s)) if item.about.kind in PATHS}
    return {key: value for key, value in s.public().items() if key not in own | places}


def interface_of(host: str) -> str | None:
    """The name of the network interface that leads to `host`; None when that cannot be told."""
    try:
        family, *_, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # sends nothing
            own = probe.getsockname()[0]
    except OSError:
        return None
    found = (name for name, addresses in psutil.net_if_addrs().items() if own in {one.address for one in addresses})
    return next(found, None)

"""The parent of the workers: chooses the ports, starts the workers, starts them again, and joins their metrics.

No device talks to it. It holds no model and no session, so there is little in it that could fail; when it ends all the
same, the workers see the link close and end as well.

=========== ======================================================================================================
SIGTERM     (and SIGINT) every worker says goodbye to its devices and ends, then the supervisor does
SIGHUP      the settings are read again, and the workers are replaced one after the other
=========== ======================================================================================================
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from bridge.admin import AdminAccess, admin_token, local_url, write_access
from bridge.banner import Facts, banner
from bridge.errors import OperatorError
from bridge.scope import task_scope
from bridge.workers.link import Link
from bridge.workers.messages import (
    Connected,
    Deal,
    Dealt,
    Ended,
    Failed,
    Family,
    FromSupervisor,
    Leave,
    Message,
    Metrics,
    MetricsAsk,
    MetricsJoined,
    MetricsRequest,
    Ping,
    Ready,
    Revoked,
    Stats,
    StatsAsk,
    StatsRequest,
    StatsTold,
    Welcome,
)
from bridge.workers.ports import Ports, reserve
from bridge.workers.totals import Totals, counter, gauge
from ota.shared_devices import start_afresh
from settings.load import Loaded, SettingsError

log = structlog.get_logger(__name__)

STOP_TIMEOUT_S: Final = 12.0
"""What a worker may take to say goodbye and end; then it is killed."""
READY_TIMEOUT_S: Final = 120.0
FIRST_BACKOFF_S: Final = 0.5
LONGEST_BACKOFF_S: Final = 30.0
STEADY_S: Final = 60.0
"""A worker that has lived so long may be started again at once."""
METRICS_TIMEOUT_S: Final = 1.0
DEAL_TIMEOUT_S: Final = 2.0
PING_PERIOD_S: Final = 5.0
LONGEST_SILENCE_S: Final = 60.0
"""A worker whose event loop stands still for so long is killed: devices that the kernel hands to it wait in vain."""


@dataclass(slots=True)
class Worker:
    """One seat, whichever process has it now."""

    index: int
    process: asyncio.subprocess.Process | None = None
    link: Link | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    facts: Facts | None = None
    failure: str = ""
    recalled: bool = False
    restarts: int = 0
    heard_at: float = 0.0
    latest: list[Family] = field(default_factory=list)
    """The last metrics that this process told."""

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def send(self, message: FromSupervisor) -> bool:
        return self.link is not None and self.link.send(message)

    def terminate(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()

    def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()


@dataclass(frozen=True, slots=True)
class _Owner:
    """The worker that has a device's newest connection."""

    worker: int
    counter: int
    at_s: float


@dataclass(slots=True)
class _Deal:
    """A new sharing under way: who has still to give up devices."""

    number: int
    outstanding: set[int]
    given_up: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Scrape:
    """A question for everybody's metrics under way."""

    number: int
    askers: set[int]
    outstanding: set[int]
    timer: asyncio.TimerHandle
    answers: dict[int, list[Family]] = field(default_factory=dict)


def run(loaded: Loaded, *, command: Sequence[str], reload: Callable[[], Loaded]) -> int:
    """Serve with ``loaded.tree.workers`` processes until SIGINT or SIGTERM. Raises OperatorError or StoreError.

    ``command`` starts a worker once ``--worker-fd N`` is appended; ``reload`` reads the settings again, or raises SettingsError.
    """
    start_afresh(loaded.tree.data_dir / "devices.sqlite3")
    ports = reserve(loaded, workers=loaded.tree.workers)
    try:
        asyncio.run(Supervisor(loaded, ports=ports, command=command, reload=reload).run())
    finally:
        ports.release()
    return 0


def _listeners(loaded: Loaded) -> tuple[str, bool, bool]:
    """What the ports that are held were chosen for."""
    tree = loaded.tree
    return tree.control.mode, tree.mqtt.plain, tree.mqtt.tls.certificate is not None


class Supervisor:
    def __init__(self, loaded: Loaded, *, ports: Ports, command: Sequence[str], reload: Callable[[], Loaded]) -> None:
        self._loaded = loaded
        self._ports = ports
        self._command = command
        self._reload = reload
        self._token = admin_token(loaded.tree)
        self._workers = [Worker(index) for index in range(loaded.tree.workers)]
        self._owners: dict[str, _Owner] = {}  # by device; grows with the fleet
        self._totals = Totals()
        self._scrape: _Scrape | None = None
        self._scrapes = 0
        self._serving: set[int] = set()  # who may have a share of the devices at the broker
        self._redeal = asyncio.Event()
        self._dealt = asyncio.Event()
        self._deal = _Deal(0, set())
        self._announced = False
        self._failure = ""
        self._stop = asyncio.Event()
        self._roll = asyncio.Event()

    async def run(self) -> None:
        """Until a signal. Raises OperatorError when a worker does not come up at the first start."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up, os.isatty(0))
        async with task_scope() as tasks:
            tasks.create_task(self._start(tasks), name="start")
            tasks.create_task(self._watch(), name="watch")
            tasks.create_task(self._deal_out(), name="deal out")
            tasks.create_task(self._replace_when_asked(), name="replace")
            await self._stop.wait()
            log.info("stopping", workers=len(self._workers))
        if self._failure:
            raise OperatorError(self._failure)

    # -- life of the workers -------------------------------------------------------------------------------------------
    async def _start(self, tasks: asyncio.TaskGroup) -> None:
        """The first worker alone, then the others at once: what the first finds or makes (models) is there for them."""
        for group in (self._workers[:1], self._workers[1:]):
            for worker in group:
                tasks.create_task(self._keep(worker), name=f"worker {worker.index}")
            for worker in group:
                await worker.ready.wait()
        await self._dealt.wait()
        self._announced = True
        self._leave_access()
        self._announce()

    async def _keep(self, worker: Worker) -> None:
        """Keep a process in this seat. Cancelled, it ends the process first."""
        loop = asyncio.get_running_loop()
        delay_s = FIRST_BACKOFF_S
        while True:
            began = loop.time()
            code = await self._live(worker)
            if not self._announced:
                self._failure = worker.failure or f"Worker {worker.index} ended before it was ready (exit code {code}); its log says more."
                self._stop.set()
                return
            if worker.recalled:
                worker.recalled = False
                continue
            worker.restarts += 1
            delay_s = FIRST_BACKOFF_S if loop.time() - began >= STEADY_S else delay_s
            log.error("a worker has ended by itself", worker=worker.index, exit_code=code, reason=worker.failure, restart_in_s=delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(LONGEST_BACKOFF_S, delay_s * 2)

    async def _live(self, worker: Worker) -> int:
        """One process, from its start to its end; the exit code. Cancelled, it ends the process, and waits for that."""
        ours, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            # a session of its own: Ctrl-C is for the supervisor, which tells the workers in its own way
            process = await asyncio.create_subprocess_exec(
                *self._command,
                "--worker-fd",
                str(descriptor),
                pass_fds=(descriptor,),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        worker.process, worker.failure = process, ""
        worker.heard_at = asyncio.get_running_loop().time()
        try:
            worker.link = await Link.over(ours, on_message=partial(self._heard, worker), on_lost=partial(self._lost, worker, process))
            worker.send(self._welcome(worker))
            return await process.wait()
        finally:
            worker.ready.clear()
            self._serves(worker, now=False)
            await self._end(process)
            await self._clear(worker)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            log.error("a worker does not end and is killed", pid=process.pid)  # noqa: TRY400 - the sentence says all
            process.kill()
            await process.wait()

    async def _clear(self, worker: Worker) -> None:
        """What was known of a process that has ended."""
        if worker.link is not None:
            await worker.link.aclose()
            worker.link = None
        self._totals.bury(worker.latest)
        worker.latest = []
        self._gave_up(worker.index)
        self._owners = {device_id: owner for device_id, owner in self._owners.items() if owner.worker != worker.index}
        self._answered(worker.index, None)

    async def _watch(self) -> None:
        """Find workers that live but do not answer."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(PING_PERIOD_S)
            for worker in self._workers:
                if worker.send(Ping()) and loop.time() - worker.heard_at > LONGEST_SILENCE_S:
                    log.error("a worker stands still and is killed", worker=worker.index)
                    worker.kill()

    def _lost(self, worker: Worker, process: asyncio.subprocess.Process) -> None:
        """The link is closed: the process has ended, is about to, or must."""

        def insist() -> None:
            if process.returncode is None:
                log.error("a worker has cut its link and is killed", worker=worker.index)
                process.kill()

        asyncio.get_running_loop().call_later(STOP_TIMEOUT_S, insist)

    # -- signals -------------------------------------------------------------------------------------------------------
    def _hang_up(self, had_terminal: bool) -> None:
        """SIGHUP is a wish for new workers, unless it tells that the terminal is closed."""
        if had_terminal and not os.isatty(0):
            self._stop.set()
        else:
            self._roll.set()

    async def _replace_when_asked(self) -> None:
        while True:
            await self._roll.wait()
            self._roll.clear()
            if not self._announced:
                continue
            try:
                loaded = self._reload()
            except SettingsError as error:
                log.error("the workers are not replaced: the settings are wrong", reason=str(error))  # noqa: TRY400
                continue
            if _listeners(loaded) != _listeners(self._loaded):
                log.error("the workers are not replaced: another control.mode or another set of MQTT listeners needs a restart")
                continue
            if loaded.tree.workers != len(self._workers):
                log.warning("another number of workers needs a restart", workers=len(self._workers), wanted=loaded.tree.workers)
            self._loaded, self._token = loaded, admin_token(loaded.tree)
            self._leave_access()
            await self._replace_all()

    async def _replace_all(self) -> None:
        """One worker after the other, each when the one before is ready: all but one serve at any time."""
        log.info("replacing the workers")
        for worker in self._workers:
            worker.recalled = worker.runs
            worker.ready.clear()
            self._serves(worker, now=False)
            await self._dealt.wait()  # others answer its devices already when it goes
            worker.terminate()
            try:
                async with asyncio.timeout(READY_TIMEOUT_S):
                    await worker.ready.wait()
            except TimeoutError:
                log.error("the replacement is given up: a new worker does not get ready", worker=worker.index)  # noqa: TRY400
                return
        log.info("all workers are replaced")

    # -- what workers say ----------------------------------------------------------------------------------------------
    def _heard(self, worker: Worker, message: Message) -> None:
        worker.heard_at = asyncio.get_running_loop().time()
        match message:
            case Ready(facts=facts):
                worker.facts = Facts(**facts | {"data_dir": Path(facts["data_dir"]), "udp_ports": tuple(facts["udp_ports"])})
                worker.ready.set()
                self._serves(worker, now=True)
            case Failed(sentence=sentence):
                worker.failure = sentence
            case Connected(device_id=device_id, counter=number, at_s=at_s):
                self._connected(device_id, _Owner(worker.index, number, at_s))
            case Ended(device_id=device_id):
                owner = self._owners.get(device_id)
                if owner is not None and owner.worker != worker.index:
                    self._workers[owner.worker].send(message)
            case Revoked():
                for other in self._workers:
                    if other is not worker:
                        other.send(message)
            case Dealt(number=number) if number == self._deal.number:
                self._gave_up(worker.index)
            case StatsAsk() | StatsTold() | MetricsAsk() | Metrics():
                self._question(worker, message)

    def _question(self, worker: Worker, message: StatsAsk | StatsTold | MetricsAsk | Metrics) -> None:
        match message:
            case StatsAsk(number=number, device_id=device_id):
                self._ask_owner(worker, number, device_id)
            case StatsTold(asker=asker, number=number, stats=stats):
                self._workers[asker].send(Stats(number=number, stats=stats))
            case MetricsAsk():
                self._ask_everybody(worker)
            case Metrics(number=number, families=families):
                worker.latest = families
                if self._scrape is not None and number == self._scrape.number:
                    self._answered(worker.index, families)

    def _connected(self, device_id: str, told: _Owner) -> None:
        """The newest connection wins. Which is the newest is decided here, in one place, so that two cannot close each other."""
        known = self._owners.get(device_id, told)
        newer, older = (known, told) if known.at_s > told.at_s else (told, known)
        self._owners[device_id] = newer
        if older.worker != newer.worker:
            self._workers[older.worker].send(Leave(device_id=device_id, counter=older.counter))

    def _ask_owner(self, asker: Worker, number: int, device_id: str) -> None:
        """Statistics of a device: the worker of its newest connection is asked, if there is one."""
        owner = self._owners.get(device_id)
        asked = owner is not None and self._workers[owner.worker].send(StatsRequest(asker=asker.index, number=number, device_id=device_id))
        if not asked:
            asker.send(Stats(number=number, stats=None))

    # -- shares of the devices at the broker ---------------------------------------------------------------------------
    def _serves(self, worker: Worker, *, now: bool) -> None:
        """The worker may have a share from now on, or no longer."""
        if now is not (worker.index in self._serving):
            self._serving ^= {worker.index}
            self._dealt.clear()
            self._redeal.set()

    async def _deal_out(self) -> None:
        """Tell the workers who serves, whenever that changes: see share.py for the two steps."""
        had: set[int] = set()
        while True:
            await self._redeal.wait()
            self._redeal.clear()
            members = sorted(self._serving)
            self._deal = deal = _Deal(self._deal.number + 1, set())
            first = Deal(number=deal.number, members=members, settled=False)
            deal.outstanding.update(index for index in had if self._workers[index].send(first))
            if not deal.outstanding:
                deal.given_up.set()
            try:
                async with asyncio.timeout(DEAL_TIMEOUT_S):
                    await deal.given_up.wait()
            except TimeoutError:
                log.error("workers do not give up their devices, so others take them", workers=sorted(deal.outstanding))  # noqa: TRY400
            had = set(members)
            for worker in self._workers:
                worker.send(Deal(number=deal.number, members=members, settled=True))
            if not self._redeal.is_set():
                self._dealt.set()

    def _gave_up(self, index: int) -> None:
        self._deal.outstanding.discard(index)
        if not self._deal.outstanding:
            self._deal.given_up.set()

    # -- metrics -------------------------------------------------------------------------------------------------------
    def _ask_everybody(self, asker: Worker) -> None:
        """Whoever asks while a question is under way gets its answer too."""
        if self._scrape is not None:
            self._scrape.askers.add(asker.index)
            return
        self._scrapes += 1
        timer = asyncio.get_running_loop().call_later(METRICS_TIMEOUT_S, self._finish_scrape)
        self._scrape = _Scrape(self._scrapes, {asker.index}, set(), timer)
        request = MetricsRequest(number=self._scrapes)
        self._scrape.outstanding |= {worker.index for worker in self._workers if worker.send(request)}

    def _answered(self, index: int, families: list[Family] | None) -> None:
        """A worker has told its metrics, or has ended (None)."""
        if self._scrape is None:
            return
        self._scrape.outstanding.discard(index)
        if families is not None:
            self._scrape.answers[index] = families
        else:
            self._scrape.answers.pop(index, None)
        if not self._scrape.outstanding:
            self._finish_scrape()

    def _finish_scrape(self) -> None:
        scrape, self._scrape = self._scrape, None
        if scrape is None:
            return
        scrape.timer.cancel()
        silent = [worker.latest for worker in self._workers if worker.index not in scrape.answers]
        joined = MetricsJoined(
            families=[
                *self._totals.with_living(scrape.answers, silent),
                gauge(
                    "xiaozhi_worker_up", "Whether the worker answers", {w.index: float(w.index in scrape.answers) for w in self._workers}
                ),
                counter("xiaozhi_worker_restarts", "Starts after an end that nobody wanted", {w.index: w.restarts for w in self._workers}),
            ]
        )
        for index in scrape.askers:
            self._workers[index].send(joined)

    # -- words ---------------------------------------------------------------------------------------------------------
    def _welcome(self, worker: Worker) -> Welcome:
        return Welcome(
            index=worker.index,
            count=len(self._workers),
            http_port=self._ports.http,
            mqtt_port=self._ports.mqtt,
            mqtt_tls_port=self._ports.mqtt_tls,
            udp_port=self._ports.udp_of(worker.index),
            admin_token=self._token,
        )

    def _leave_access(self) -> None:
        tree = self._loaded.tree
        write_access(tree.data_dir, AdminAccess(local_url(tree.http.host, self._ports.http), self._token))

    def _announce(self) -> None:
        """The ready line: as :func:`bridge.app.announce`, for all workers together."""
        known = [worker.facts for worker in self._workers if worker.facts is not None]
        facts = Facts.of_workers(known)
        log.info("ready", **facts.as_log())
        print(banner(facts), flush=True)  # noqa: T201 - this is what the operator came for

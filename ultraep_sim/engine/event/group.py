"""One expert-parallel group: its kernels, its streams, and the mail between stages."""

from __future__ import annotations

from simpy import Environment, Event

from ultraep_sim.engine.job import Job

from .barrier import Arrival
from .kernels import Kernel, KernelTable, SpanSink, Spells
from .schedule import Pass
from .streams import Stream, Tally
from .sync import StageSync


class Mail:
    """Activations and their gradients on their way between the virtual stages of one replica.

    Parameters
    ----------
    env : Environment
    job : Job
    tally : Tally
    """

    def __init__(self, env: Environment, job: Job, tally: Tally) -> None:
        self._hop_s = job.hop_s.tolist()
        self._tally = tally
        self._arrivals = {}
        for batch in range(job.micro_batches):
            for hop in range(job.virtual_stages - 1):
                self._arrivals[Pass("forward", hop + 1, batch)] = Arrival(env)
                self._arrivals[Pass("backward", hop, batch)] = Arrival(env)

    def input_of(self, work: Pass) -> Event | None:
        """Return the arrival that a pass waits for; None at either end of the model."""
        return self._arrivals.get(work)

    def send_output_of(self, work: Pass) -> None:
        """Send what a pass made on to the next virtual stage (the previous, for a backward)."""
        forward = work.direction == "forward"
        target = work._replace(virtual_stage=work.virtual_stage + (1 if forward else -1))
        arrival = self._arrivals.get(target)
        if arrival is not None:
            self._tally.events += 1
            arrival.send(self._hop_s[min(work.virtual_stage, target.virtual_stage)])


class Group:
    """The ranks that serve stage `stage` of replica `replica`.

    Parameters
    ----------
    env : Environment
    job : Job
    replica, stage : int
    table : KernelTable
        Of the replica.
    mail : Mail
        Of the replica.
    sync : StageSync
        Of the stage.
    tally : Tally
    spans : SpanSink or None

    Attributes
    ----------
    main, side : Stream
        The compute stream, and the communication stream. Steps in sequence all run on `main`;
        `side` has what runs beside them.
    """

    def __init__(
        self,
        env: Environment,
        job: Job,
        replica: int,
        stage: int,
        table: KernelTable,
        mail: Mail,
        sync: StageSync,
        tally: Tally,
        spans: SpanSink | None,
    ) -> None:
        first_gpu = (replica * job.stages + stage) * job.ranks
        self.env = env
        self.job = job
        self.table = table
        self.mail = mail
        self.sync = sync
        self.tally = tally
        self.main = Stream(env, job.ranks, first_gpu, tally, spans)
        self.side = Stream(env, job.ranks, first_gpu, tally, spans)
        self._spells = Spells(job.episodes, first_gpu, job.ranks)

    def kernel(self, phase: str, micro_batch: int, layer: int) -> Kernel:
        """Return a kernel as it runs if it starts now."""
        kernel = self.table.kernel(phase, micro_batch, layer)
        return self._spells.stretch(kernel, self.env.now) if self._spells else kernel

    def outside(self, work: Pass) -> Kernel:
        """Return what a pass computes outside MoE layers, as it runs if it starts now."""
        phase = f"extra_{work.direction}"
        kernel = self.table.outside(phase, work.virtual_stage, work.micro_batch)
        return self._spells.stretch(kernel, self.env.now) if self._spells else kernel

    def layers(self, work: Pass) -> range:
        """Return the MoE layers of a pass, in the order in which it runs them."""
        first, stop = self.job.layers[work.virtual_stage]
        if work.direction == "forward":
            return range(first, stop)
        return range(stop - 1, first - 1, -1)

    @property
    def compute_s(self) -> float:
        """Seconds in which the group computed, by each kernel's slowest rank."""
        return self.main.compute_s + self.side.compute_s

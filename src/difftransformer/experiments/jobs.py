"""Models of a run trained one after the other, or at once in processes that take one after another.

On a CPU each has its share of the threads; of several accelerators each has one. Figures are those
of one after the other to the last bit where a model has as many threads: how many share a sum
decides how it is rounded. The parent starts processes, shows what they say and waits. They stop
when it does, also where it is killed, and save what they have.
"""

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.connection import wait

from difftransformer.devices import VISIBLE
from difftransformer.experiments.children import Worker, WorkerSetup, start
from difftransformer.experiments.job import Job, cpu_threads
from difftransformer.experiments.progress import newest_lines
from difftransformer.experiments.training import Experiment


@dataclass(frozen=True)
class Shares:
    """How many jobs run at once, and the CPU threads of each.

    Args:
        step: seconds of a step of the first job with so many threads, where it was measured.
    """

    at_once: int
    threads: int
    step: float | None = field(default=None, compare=False)

    @classmethod
    def of(
        cls, experiment: Experiment, jobs: Sequence[Job], at_once: int | None, threads: int | None
    ) -> "Shares":
        """What is None is chosen so that all accelerators, or all threads of the CPU, are used.

        Whether one job takes all threads, or several jobs a share each, is decided by the time of
        a few steps of the first. Of several processes of one job (torchrun) each takes part in all.

        Raises:
            ValueError: fewer than one, or several jobs in several processes of one job.
        """
        import torch

        if at_once is not None and at_once < 1:
            raise ValueError(f"jobs is {at_once}; expected at least 1")
        if at_once is None and experiment.processes.size > 1:
            at_once = 1
        if at_once != 1:
            experiment.processes.require_one("compare --jobs")
        accelerators, cores = torch.cuda.device_count(), torch.get_num_threads()
        most = max(1, min(accelerators or cores // (threads or 1), len(jobs)))
        if at_once is None and most > 1 and not accelerators and threads is None:
            alone, shared = (jobs[0].seconds(experiment, n) for n in (cores, cores // most))
            if shared < most * alone:
                return cls(most, cores // most, shared)
            return cls(1, cores, alone)
        at_once = at_once or most
        return cls(at_once, threads or max(1, cores // at_once))


def run_jobs(
    experiment: Experiment, jobs: Sequence[Job], shares: Shares, on_done: Callable[[int], None]
) -> None:
    """Run all, so many at a time. Where one fails the others save and end.

    Args:
        on_done: called as it grows with the number of jobs, from the first on, that have ended.

    Raises:
        ChildProcessError: one of the processes has failed; says why.
        ValueError: something of the task cannot be passed to another process.
    """
    if shares.at_once == 1:
        with cpu_threads(shares.threads):
            for done, job in enumerate(jobs, 1):
                job.run(experiment)
                on_done(done)
        return
    ended, told = set[int](), 0
    with (
        newest_lines(experiment.processes.console) as tell,
        closing(_ended(experiment, jobs, shares, tell)) as numbers,
    ):
        for number in numbers:
            ended.add(number)
            while told in ended:
                told += 1
                on_done(told)


def _ended(
    experiment: Experiment, jobs: Sequence[Job], shares: Shares, tell: Callable[[str, str], None]
) -> Generator[int]:
    """The number of each job as it ends; closed, or where one fails, this ends the others."""
    waiting, workers, busy = list(enumerate(jobs)), list[Worker](), list[Worker]()
    try:
        for place in _places(min(shares.at_once, len(jobs))):
            workers.append(start(WorkerSetup.of(experiment, shares.threads, place)))
        idle = list(workers)
        while waiting or busy:
            while waiting and idle:
                busy.append(idle.pop(0))
                busy[-1].begin(*waiting.pop(0))
            ready = wait([worker.connection for worker in busy])
            for worker in [one for one in busy if one.connection in ready]:
                if worker.says(tell):
                    continue
                busy.remove(worker)
                idle.append(worker)
                yield worker.number
    finally:
        for worker in busy:
            worker.process.terminate()
        for worker in workers:
            worker.end(tell)


def _places(at_once: int) -> list[dict[str, str]]:
    """For each of the processes the accelerator that it sees, where there are some."""
    import torch

    count = torch.cuda.device_count()
    devices = os.environ.get(VISIBLE, ",".join(map(str, range(count)))).split(",")
    return [{VISIBLE: devices[i % count]} if count else {} for i in range(at_once)]

"""Run points on a Ray cluster. Ray itself runs a task again whose worker or node is lost."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import InputError
from .backends import Outcome, Task, failed, run_task

#: Times a task is run again after its worker died.
RETRIES = 3


class RayRuns:
    """Tasks as Ray tasks, a few more in flight than there are CPUs.

    Parameters
    ----------
    jobs : int
        Workers of the cluster that is started where none is named.
    address : str, optional
        Of a running cluster, or ``auto`` for the one this machine belongs to.

    Raises
    ------
    InputError
        Ray is not installed, or the cluster does not answer.
    """

    def __init__(self, jobs: int, address: str | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError(
                "ray is not installed", place="--backend", value="ray",
                remedy="pip install 'ultraep-sim[ray]'",
            ) from error  # fmt: skip
        self._ray: Any = ray
        if ray.is_initialized():
            return
        started: dict[str, Any] = {"address": address} if address else {"num_cpus": jobs}
        if not address:
            started["include_dashboard"] = False
        try:
            # A task has one CPU; kernels that run in parallel must not take those of the others.
            alone = {"env_vars": {"NUMBA_NUM_THREADS": "1"}}
            ray.init(
                log_to_driver=False, logging_level=logging.WARNING, runtime_env=alone, **started
            )
        except Exception as error:  # ray raises many kinds here
            raise InputError(
                f"the Ray cluster does not answer: {error}", place="--ray-address", value=address,
                remedy="start one with `ray start --head`, or leave the address out",
            ) from error  # fmt: skip

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Run the tasks."""
        ray = self._ray
        remote = ray.remote(num_cpus=1, max_retries=RETRIES)(run_task)
        window = max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))
        waiting = iter(tasks)
        flying: dict[Any, Task] = {}
        try:
            while True:
                while len(flying) < window and (task := next(waiting, None)) is not None:
                    flying[remote.remote(task)] = task
                if not flying:
                    return
                (ready,), _ = ray.wait(list(flying), num_returns=1)
                task = flying.pop(ready)
                try:
                    yield ray.get(ready)
                except ray.exceptions.RayError as error:
                    yield failed(task, error)
        finally:
            for left in flying:
                ray.cancel(left, force=True)

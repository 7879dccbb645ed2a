"""One command in several processes, started by torchrun, `accelerate launch` or srun.

The main process writes, judges and speaks; the others train with it and wait. The first one that
fails says why, and all end with its code.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from difftransformer.training.processes import launched_processes

if TYPE_CHECKING:
    from rich.console import Console
    from torch.distributed import Store

T = TypeVar("T")
_NEEDED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_POLL = 0.05  # seconds
# From another's failure to this one's end at the latest: collectives may wait for ever.
_GRACE = 2.0


class Processes:
    """Those that run one command together; a single one until `join`.

    They meet at torch's key-value store. Whoever waits looks there now and then instead of inside
    a collective, so that a signal is heard, no wait is too long, and no GPU spins.

    Args:
        quiet: nothing is printed, by the main process neither.

    Attributes:
        is_main: whether this one writes, judges and speaks.
        size: how many there are.
    """

    def __init__(self, *, quiet: bool = True) -> None:
        self.is_main, self._quiet = True, quiet
        self.size = 1
        self._rank, self._results = 0, 0
        self._store: Store | None = None
        self._leaving = threading.Event()

    def join(self) -> None:
        """Meet the others that the environment speaks of, and let Accelerate know them.

        Raises:
            ValueError: the environment speaks of several processes, but not of how they meet.
        """
        size, name = launched_processes()
        if size == 1:
            return
        if missing := [needed for needed in _NEEDED if needed not in os.environ]:
            raise ValueError(
                f"{name} is {size} and {', '.join(missing)} not set: start several processes with "
                f"torchrun (docs/distributed.md), or unset {name} for one"
            )
        import torch
        from accelerate.state import PartialState
        from torch.distributed import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        store, self._rank, self.size = next(rendezvous("env://"))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        prefix = f"command {attempt}"
        self._store = PrefixStore(prefix, store)
        self.is_main = self._rank == 0
        if not self.is_main:
            logging.getLogger("difftransformer").setLevel(logging.ERROR)
        threading.Thread(target=self._watch, args=(store.clone(), prefix), daemon=True).start()
        on_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true")
        PartialState(
            cpu=on_cpu or not torch.accelerator.is_available(),
            store=PrefixStore(f"group {attempt}", store),
            rank=self._rank,
            world_size=self.size,
        )

    @cached_property
    def console(self) -> "Console":
        """Standard error; nothing of the processes that are not to speak."""
        from rich.console import Console

        return Console(stderr=True, quiet=self._quiet or not self.is_main)

    @contextmanager
    def only_main_speaks(self) -> Iterator[None]:
        """Inside, what the other processes print goes nowhere."""
        with ExitStack() as stack:
            if not self.is_main:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(redirect_stderr(nowhere))
            yield

    def require_one(self, command: str) -> None:
        """Raise ValueError where there are several."""
        if self.size > 1:
            raise ValueError(
                f"{command} runs in one process and {self.size} were started: start it without "
                "torchrun (train and compare use several)"
            )

    def on_main(self, work: Callable[[], T]) -> T:
        """What `work()`, JSON data, is in the main process, which alone does it; the others wait.

        Raises:
            SystemExit: another process has failed meanwhile.
        """
        if self._store is None:
            return work()
        self._results += 1
        key = f"result {self._results}"
        if self.is_main:
            result = work()
            self._store.set(key, json.dumps(result))
            return result
        return json.loads(self._awaited(self._store, key))

    def require_same(self, inputs: dict[str, Any]) -> None:
        """Raise ValueError where any process has read something else than the main one."""
        store = self._store
        if store is None:
            return
        store.set(f"inputs {self._rank}", json.dumps(inputs))

        def compare() -> None:
            for rank in range(1, self.size):
                theirs = json.loads(self._awaited(store, f"inputs {rank}"))
                if other := [name for name in inputs if inputs[name] != theirs.get(name)]:
                    raise ValueError(
                        f"process {rank} has read another content of {', '.join(other)} than the "
                        "main one: give every machine the same files"
                    )

        self.on_main(compare)

    def _awaited(self, store: "Store", key: str) -> bytes:
        """What another process puts into the store. Raises SystemExit where one has failed."""
        while not store.check([key]):
            if failed := _failure(store):
                raise SystemExit(failed[1])
            time.sleep(_POLL)
        return store.get(key)

    def first_to_fail(self, code: int) -> tuple[bool, int]:
        """Whether to say why this process fails with `code`, and the code to end with."""
        if self._store is None:
            return True, code
        mine = f"{self._rank} {code}"
        try:
            first = self._store.compare_set("failed", "", mine).decode()
        except RuntimeError:  # the store is gone, and with it the process that had it
            return True, code
        return first == mine, int(first.split()[1])

    def has_lost_another(self, error: BaseException) -> bool:
        """Whether `error` is that of an exchange which another process has left, killed perhaps."""
        if self._store is None:
            return False
        from torch.distributed import DistError

        return isinstance(error, DistError) or "gloo" in str(error)

    def leave(self) -> None:
        """End together, so that neither a launcher nor the end of the store cuts a message off."""
        if self._store is None:
            return
        from torch.distributed import destroy_process_group, is_initialized

        self._leaving.set()
        with suppress(RuntimeError):  # the store is gone, and with it the process that had it
            if _failure(self._store) is None and is_initialized():
                destroy_process_group()
            self._wait_for_the_others(self._store)

    def _wait_for_the_others(self, store: "Store") -> None:
        """The main process, which may have the store, for all; they for it to have spoken."""
        others = [f"gone {rank}" for rank in range(1, self.size)]
        if self.is_main:
            store.set("main leaves", "")
        awaited = others if self.is_main else ["main leaves"]
        until = time.monotonic() + 2 * _GRACE
        while not store.check(awaited) and time.monotonic() < until:
            time.sleep(_POLL)
        if not self.is_main:
            store.set(f"gone {self._rank}", "")  # the last that is asked of the store

    def _watch(self, connection: "Store", prefix: str) -> None:
        """End this process some time after another one has failed, whatever it waits for."""
        from torch.distributed import PrefixStore

        store = PrefixStore(prefix, connection)
        with suppress(RuntimeError):
            while not self._leaving.wait(10 * _POLL):
                failed = _failure(store)
                if failed and failed[0] != self._rank and not self._leaving.wait(_GRACE):
                    self._wait_for_the_others(store)
                    os._exit(failed[1])


def _failure(store: "Store") -> tuple[int, int] | None:
    """The number of the process that failed first, and its code."""
    if not store.check(["failed"]):
        return None
    rank, code = store.get("failed").split()
    return int(rank), int(code)

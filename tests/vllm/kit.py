"""A pod on a folder: the daemon as a process, engines as processes that take commands, and looks into the shared files."""

from __future__ import annotations

import json
import os
import random
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import spillway

HERE = Path(__file__).resolve().parent
VERSION = "0.32.0"
# Another version's Python on this one's operators: see `sources.py`.
SOURCES = os.environ.get("SPILLWAY_VLLM_SOURCES")
CACHE = Path(
    os.environ.get("SPILLWAY_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "spillway")
)
ENVIRONMENT = CACHE / f"vllm-{VERSION}"
MIB = 1 << 20
CHUNK_TOKENS = 256
ENGINE_START_SECONDS = 240
ANSWER_SECONDS = 120
Seen = TypeVar("Seen")

# float32, because bfloat16 is no oracle: an engine's own prefix cache changes its greedy tokens there.
ARGUMENTS: dict[str, Any] = {
    "model": str(ENVIRONMENT / "models" / "tiny-llama"),
    "dtype": "float32",
    "max_model_len": 8192,
    "enforce_eager": True,
    "block_size": 32,
    "disable_log_stats": False,
    "max_num_batched_tokens": 512,
    "num_gpu_blocks_override": 512,
}


def wait_for(what: str, look: Callable[[], Seen | None], seconds: float = 30) -> Seen:
    """Call `look` until it gives something true. Raises AssertionError that names what was awaited and what was seen last."""
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s for {what}; last seen: {seen!r}")
        time.sleep(0.02)


def prompt(seed: int, tokens: int = 1000) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(3, 1000) for _ in range(tokens)]


def make_client_folder(folder: Path) -> Path:
    """What the init container puts on PYTHONPATH: the engine's half of the package and the entry point's metadata."""
    package = folder / "spillway"
    package.mkdir(parents=True)
    source = Path(spillway.__file__).parent
    for name in ("__init__.py", "_core.abi3.so", "client", "adapters"):
        (package / name).symlink_to(source / name)
    metadata = folder / "spillway_kv-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: spillway-kv\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nspillway = spillway.adapters.vllm.plugin:register\n"
    )
    return folder


def python_path(client: Path) -> str:
    """As in a pod, with another version's sources before the environment's own where those are tested."""
    return os.pathsep.join([str(client), *([SOURCES] if SOURCES else [])])


class Pod:
    """The shared folders of one pod and its sidecar's process."""

    def __init__(self, root: Path, client: Path, *, dram_mib: int = 256, nvme_mib: int = 0) -> None:
        self.root, self.client = root, client
        for name in ("arena", "index", "run", "nvme"):
            (root / name).mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        config: dict[str, Any] = {
            "pool": {"namespace": "test", "name": "chat", "uid": "5e1f"},
            "revision": "test",
            "dram": {"capacity_bytes": dram_mib * MIB},
            "index_bytes": MIB,
            "http_port": self.port,
        }
        if nvme_mib:
            config["nvme"] = {
                "capacity_bytes": nvme_mib * MIB,
                "reserve_percent": 0,
                "volume_type": "EmptyDir",
                "deadline_seconds": 5,
            }
        self.config = json.dumps(config)
        self.daemon: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        return {**os.environ, "SPILLWAY_ROOT": str(self.root), "SPILLWAY_CONFIG": self.config}

    def start_daemon(self) -> None:
        before = self.index_word(16) if self.index().exists() else 0
        with (self.root / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "spillway.daemon"], env=self.environment(), stdout=log, stderr=log
            )
        wait_for("the daemon to serve", lambda: self.index().exists() and self.index_word(16) > before, 30)

    def kill_daemon(self, how: int = signal.SIGKILL) -> None:
        if self.daemon is not None:
            self.daemon.send_signal(how)
            self.daemon.wait(timeout=40)
            self.daemon = None

    @contextmanager
    def stopped_daemon(self) -> Iterator[None]:
        """No lease comes, no chunk is inserted meanwhile."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.daemon.send_signal(signal.SIGCONT)

    # Looks into the index file; its layout is docs/formats.md.

    def index(self) -> Path:
        return self.root / "index" / "index"

    def index_word(self, offset: int) -> int:
        with self.index().open("rb") as file:
            word = os.pread(file.fileno(), 8, offset)
        return int(struct.unpack("<Q", word)[0]) if len(word) == 8 else 0

    def slot_states(self) -> dict[int, int]:
        """How many slots are in each state: 0 free, 1 leased, 2 valid, 3 reading, 4 recycling, 5 quarantined."""
        table, end = self.index_word(104), self.index_word(72)
        with self.index().open("rb") as file:
            records = os.pread(file.fileno(), self.index_word(56) // (64 * 1024) * 16, table)
        assert len(records) <= end or end < table
        found: dict[int, int] = {}
        for state in records[::16]:
            found[state] = found.get(state, 0) + 1
        return found

    def chunks(self) -> tuple[int, int]:
        """How many chunks are in DRAM and how many on NVMe."""
        offset, count = self.index_word(72), self.index_word(64)
        with self.index().open("rb") as file:
            entries = os.pread(file.fileno(), count * 64, offset)
        dram = nvme = 0
        for at in range(0, len(entries), 64):
            if entries[at + 4] == 1:
                dram += struct.unpack_from("<I", entries, at + 24)[0] != 0xFFFFFFFF
                nvme += struct.unpack_from("<Q", entries, at + 32)[0] != 0xFFFFFFFFFFFFFFFF
        return dram, nvme

    def metric(self, name: str, labels: str = "") -> float:
        """One figure of the sidecar's /metrics; 0 when it is not there."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        found = [line for line in text.splitlines() if line.startswith(name + (f"{{{labels}}} " if labels else " "))]
        return float(found[0].split()[-1]) if found else 0.0

    def close(self) -> None:
        self.kill_daemon()


class Forked:
    """A process of the nursery's, with the part of Popen that the tests use. How it ended only the nursery could know."""

    def __init__(self, pid: int, stdin: BinaryIO, stdout: BinaryIO) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self._descriptor = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """-1 when it has ended."""
        return -1 if self._has_ended(0) else None

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def wait(self, timeout: float) -> int:
        if not self._has_ended(timeout):
            raise subprocess.TimeoutExpired(f"engine {self.pid}", timeout)
        return -1

    def _has_ended(self, seconds: float) -> bool:
        return bool(select.select([self._descriptor], [], [], seconds)[0])


class Nursery:
    """The interpreter that has vLLM imported and forks engines; see `nursery.py`. It starts with the first engine."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._ours: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def fork(self, environment: dict[str, str], arguments: dict[str, Any], log: Path) -> Forked:
        if self._ours is None:
            self._start(environment)
        assert self._ours is not None
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        with log.open("wb") as output:
            message = json.dumps({"environment": environment, "arguments": arguments}).encode()
            socket.send_fds(self._ours, [message], [theirs_in, theirs_out, output.fileno()])
        for descriptor in (theirs_in, theirs_out):
            os.close(descriptor)
        answer = self._ours.recv(32)
        assert answer, f"the nursery ended:\n{self._log.read_text(errors='replace')[-2000:]}"
        return Forked(int(answer), os.fdopen(ours_in, "wb"), os.fdopen(ours_out, "rb"))

    def _start(self, environment: dict[str, str]) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.settimeout(ENGINE_START_SECONDS)
        # Without the pod's folders, and with another version's sources where those are tested.
        own = {name: value for name, value in environment.items() if not name.startswith("SPILLWAY_")}
        own["PYTHONPATH"] = SOURCES or ""
        with self._log.open("wb") as output, theirs:
            self._process = subprocess.Popen(
                [str(ENVIRONMENT / "venv/bin/python"), str(HERE / "nursery.py")],
                env=own,
                stdin=theirs,
                stdout=output,
                stderr=output,
            )

    def close(self) -> None:
        if self._process is not None and self._ours is not None:
            self._ours.close()
            self._process.wait(timeout=30)


class Engine:
    """One engine process; `ask` sends a command and returns its answer.

    A nursery's is forked from an interpreter that has vLLM imported; one with an environment of its own, which vLLM may read
    while it is imported, is a process from the beginning.
    """

    def __init__(
        self,
        pod: Pod,
        *,
        log: Path,
        nursery: Nursery | None = None,
        environment: dict[str, str] | None = None,
        **arguments: Any,
    ) -> None:
        self.log = log
        settings = {
            **pod.environment(),
            # vLLM compiles its log probabilities with torch, which wants a C++ compiler and Python's headers.
            "TORCHDYNAMO_DISABLE": "1",
            "PYTHONPATH": python_path(pod.client),
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            **(environment or {}),
        }
        arguments = {**ARGUMENTS, **arguments}
        self.process: subprocess.Popen[bytes] | Forked
        if nursery is not None and not environment:
            self.process = nursery.fork(settings, arguments, log)
        else:
            command = [str(ENVIRONMENT / "venv/bin/python"), str(HERE / "driver.py"), json.dumps(arguments)]
            with log.open("wb") as output:
                self.process = subprocess.Popen(
                    command, env=settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output
                )
        self._read(ENGINE_START_SECONDS)

    def _read(self, seconds: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            ready = selector.select(seconds)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])
            raise AssertionError(
                f"waited {seconds} s for the engine, exit code {self.process.poll()}; its log ends:\n{tail}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": command, "with": arguments}).encode() + b"\n")
        self.process.stdin.flush()
        # A command that says how long it goes on ends what it has begun after that.
        return self._read(ANSWER_SECONDS + float(arguments.get("seconds", 0)))

    def external_tokens(self) -> int:
        return int(self.ask("metrics").get("prompt_tokens_by_source/external_kv_transfer", 0))

    def cached_tokens(self, source: str) -> int | None:
        """vLLM's own count of prompt tokens that came from there; None of a minor that has none (0.31)."""
        metrics = self.ask("metrics")
        return int(metrics[f"prompt_tokens_cached_by_source/{source}"]) if metrics["tells_sources"] else None

    def warm_up(self) -> None:
        """Small requests until the engine is attached and its identity is known."""

        def ready() -> bool:
            self.ask("generate", prompt=prompt(0, 40), max_tokens=1)
            facts = self.ask("facts")
            assert facts["cold"] is None and facts["problem"] is None, facts
            return bool(facts["ready"])

        wait_for("the engine to attach", ready)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=30)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

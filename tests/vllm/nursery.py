"""Runs inside the vLLM environment: an interpreter that has vLLM imported and forks an engine's process for whoever asks.

Importing vLLM takes longer than making an engine of a small model, so the tests do it once. It runs no code of torch and
makes no thread that a fork would miss. The socket is standard input: each message is {"environment": ..., "arguments": ...} with the
engine's standard input, output and error as descriptors, and is answered with its pid. At end of file it ends; its children live on.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from typing import Any

import driver

_MESSAGE_BYTES = 1 << 20


def import_engine() -> None:
    """What every engine of the tests imports before it looks at its settings."""
    import vllm.lora.request
    import vllm.model_executor.models.llama
    import vllm.v1.engine.core
    import vllm.v1.engine.llm_engine
    import vllm.v1.worker.cpu_model_runner
    import vllm.v1.worker.cpu_worker  # noqa: F401
    from vllm import LLM, SamplingParams  # noqa: F401


def become_engine(settings: dict[str, Any], descriptors: list[int]) -> None:
    """In the child: what a new process would have got from its parent."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for standard, descriptor in enumerate(descriptors):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    sys.stdin = os.fdopen(0, "r", closefd=False)
    os.environ.clear()
    os.environ.update(settings["environment"])
    sys.path[1:1] = [path for path in os.environ["PYTHONPATH"].split(os.pathsep) if path not in sys.path]
    driver.run(settings["arguments"])


def main() -> None:
    asked = socket.socket(fileno=os.dup(0))
    import_engine()
    # Nobody here asks how a child ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(asked, _MESSAGE_BYTES, 3)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            asked.close()
            status = 1
            try:
                become_engine(json.loads(message), descriptors)
                status = 0
            except Exception:  # noqa: BLE001 - it is the end of the process, and its log says why
                traceback.print_exc()
            finally:
                os._exit(status)
        for descriptor in descriptors:
            os.close(descriptor)
        asked.send(str(pid).encode())


if __name__ == "__main__":
    main()

"""Where tasks run: this host's devices and processes, or the workers of a Dask scheduler."""

from __future__ import annotations

import importlib.util
import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

import loky
import torch

from ..settings import BadInput


@dataclass(frozen=True)
class Machine:
    """Devices and how many processes; with a ``cluster`` they are those that it starts here, or its workers' own."""

    devices: tuple[str, ...]
    jobs: int
    cluster: str = ""  # "local", or the address of a Dask scheduler

    @staticmethod
    def choose(device: str = "auto", jobs: int = 0, cluster: str = "") -> Machine:
        """``auto`` takes every GPU, or the CPU; ``jobs`` 0 takes one process per core, or per GPU.

        Raises BadInput for a device that is not there, or a cluster that cannot be used.
        """
        gpus = tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))
        allowed = {"auto": gpus or ("cpu",), "cpu": ("cpu",)} | {gpu: (gpu,) for gpu in gpus}
        allowed |= {"cuda": gpus} if gpus else {}
        if cluster := checked(cluster):
            allowed = allowed if cluster == "local" else {kind: (kind,) for kind in ("auto", "cpu", "cuda")}
        if device not in allowed:
            raise BadInput(f"device '{device}' is not available here; choose one of {', '.join(allowed)}.")
        devices = allowed[device]
        return Machine(devices, jobs or (len(devices) if devices[0] in gpus else loky.cpu_count()), cluster)


def checked(cluster: str) -> str:
    """A scheduler's address without the word that allows it to be public. Raises BadInput where it cannot be used."""
    if cluster and importlib.util.find_spec("distributed") is None:
        raise BadInput("cluster needs Dask, which is not installed here; run pip install 'unlearn-utils[cluster]'.")
    if cluster in ("", "local"):
        return cluster
    address = cluster.removeprefix("public:")
    try:
        parts = urlsplit(address)
        if parts.scheme not in ("tcp", "tls") or not parts.hostname or not parts.port:
            raise ValueError("is no address like tcp://host:8786 or tls://host:8786, nor 'local'")
        found = {entry[4][0].partition("%")[0] for entry in socket.getaddrinfo(parts.hostname, parts.port)}
    except (ValueError, OSError) as why:
        raise BadInput(f"cluster is {cluster!r}, which cannot be used ({why}).") from None
    if parts.scheme == "tcp" and address == cluster and any(ipaddress.ip_address(ip).is_global for ip in found):
        raise BadInput(
            f"{address} is a public address without TLS, where whoever reaches the scheduler can run programs on its "
            f"workers and here; use a private one or tls://, or write public:{address} if a firewall protects it."
        )
    return address

"""What is installed and what is there to compute with; nothing here needs torch to work."""

import importlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, final

from whence.cli.dry_run import amount

__all__ = ["Check", "devices", "extras", "libraries", "pair_for", "places", "vision"]

State = Literal["ok", "note", "fault"]
TOOLS = ("bench", "dev", "docs", "notebook", "parity")
"""Extras for those who work on whence itself."""
SCARCE = 2e9
"""Free bytes below which a disk is worth a note."""
FIRST_PAIR = 15
"""torchvision 0.15 is for torch 2.0, 0.16 for 2.1, and so on."""


@final
@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Args:
        topic: Of what kind: installed, extras, devices, places, job.
        name: What was looked at.
        state: ``fault`` if it is broken or will not do, ``note`` if it may matter.
        says: What was found.
        advice: What to do; empty if nothing.
    """

    topic: str
    name: str
    state: State
    says: str
    advice: str = ""


def version_of(package: str) -> str | None:
    """Return the version of an installed package, without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def libraries() -> Iterator[Check]:
    """Yield Python, whence and torch."""
    from whence import __version__

    topic = "installed"
    yield Check(topic=topic, name="python", state="ok", says=platform.python_version())
    yield Check(topic=topic, name="whence", state="ok", says=__version__)
    found = version_of("torch")
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - whatever keeps it from being imported is shown
        yield Check(
            topic=topic,
            name="torch",
            state="fault",
            says=f"{found or 'not installed'}: {brief(error)}",
            advice="pip install --force-reinstall torch",
        )
        return
    kind = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU"
    yield Check(topic=topic, name="torch", state="ok", says=f"{torch.__version__}, {kind}")


def vision() -> Check | None:
    """Return whether torchvision works with torch; None if it is not installed.

    Where only its compiled operators do not load, whence opens it without them, which is worth a
    note: models, datasets and transforms work, detection does not.
    """
    found, base = version_of("torchvision"), version_of("torch")
    if found is None or base is None:
        return None
    wanted = pair_for(base)
    fits = wanted is None or found.startswith(f"{wanted}.")
    advice = (
        f"pip install --force-reinstall 'torch=={short(base)}.*' 'torchvision=={wanted}.*'  (both "
        f"from the same index: for the CPU, or for the same CUDA)"
        if wanted
        else "Install torch and torchvision together, from the same index."
    )
    says = f"{found}; torch {base} goes with torchvision {wanted or '(unknown)'}"
    try:
        importlib.import_module("torchvision")
        import torch

        _ = torch.ops.torchvision.nms
    except Exception as error:  # noqa: BLE001 - whatever keeps it from being imported is shown
        fault = "the versions fit, but its compiled part does not load" if fits else "it does not"
        works = opens_without_operators()
        rest = "; models, datasets and transforms work with whence, detection does not"
        return Check(
            topic="installed",
            name="torchvision",
            state="note" if works else "fault",
            says=f"{says}: {fault} ({brief(error)}){rest if works else ''}",
            advice=advice,
        )
    return Check(
        topic="installed",
        name="torchvision",
        state="ok" if fits else "note",
        says=says + ("" if fits else ": it loads, but was made for another"),
        advice="" if fits else advice,
    )


def opens_without_operators() -> bool:
    """Whether whence can use torchvision although its compiled part does not load."""
    from whence.adapters.torchvision import open_torchvision

    try:
        open_torchvision()
    except Exception:  # noqa: BLE001 - it is told by the caller why
        return False
    return True


def pair_for(torch_version: str) -> str | None:
    """Return the version of torchvision that goes with a version of torch, or None if unknown."""
    found = re.match(r"2\.(\d+)", torch_version)
    return f"0.{int(found[1]) + FIRST_PAIR}" if found else None


def short(version: str) -> str:
    """Return the first two numbers of a version."""
    return ".".join(version.split(".")[:2])


def extras() -> Iterator[Check]:
    """Yield each extra of whence: present, or how to install it."""
    wanted: dict[str, list[str]] = {}
    for line in metadata.requires("whence") or ():
        package, extra = (
            re.match(r"[\w.-]+", line),
            re.search(r"extra\s*==\s*['\"](.+?)['\"]", line),
        )
        if package and extra and extra[1] not in TOOLS:
            wanted.setdefault(extra[1], []).append(package[0])
    for name_of, packages in wanted.items():
        versions = {name: version_of(name) for name in packages}
        missing = [name for name, version in versions.items() if version is None]
        yield Check(
            topic="extras",
            name=name_of,
            state="ok" if not missing else "note",
            says=", ".join(f"{name} {version or 'missing'}" for name, version in versions.items()),
            advice=f"pip install 'whence[{name_of}]'" if missing else "",
        )


def devices(asked: str) -> Iterator[Check]:
    """Yield processors, memory and accelerators, and whether the device asked for is there."""
    topic = "devices"
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    total, free = memory()
    told = f"{amount(total)}, {amount(free)} free" if total and free else "unknown memory"
    yield Check(topic=topic, name="cpu", state="ok", says=f"{usable} cores, {told}")
    try:
        import torch
    except Exception:  # noqa: BLE001 - shown where libraries are listed
        return
    threads = torch.get_num_threads()
    many = usable is not None and threads > usable
    yield Check(
        topic=topic,
        name="threads",
        state="note" if many else "ok",
        says=f"{threads} of torch; OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}",
        advice=f"OMP_NUM_THREADS={usable}" if many else "",
    )
    for number in range(torch.cuda.device_count()):
        rest, whole = torch.cuda.mem_get_info(number)
        says = f"{torch.cuda.get_device_name(number)}, {amount(whole)}, {amount(rest)} free"
        yield Check(topic=topic, name=f"cuda:{number}", state="ok", says=says)
    if torch.backends.mps.is_available():
        yield Check(topic=topic, name="mps", state="ok", says="Apple's GPU")
    try:
        torch.empty(1, device=asked)
    except Exception as error:  # noqa: BLE001 - whatever keeps it from being used is shown
        yield Check(
            topic=topic,
            name=asked,
            state="fault",
            says=f"cannot be used ({brief(error)})",
            advice="Use --device cpu, or install a torch that is built for it.",
        )


def memory() -> tuple[int | None, int | None]:
    """Return the bytes of memory and those that are free, where the system tells."""
    try:
        text = Path("/proc/meminfo").read_text("ascii")
        found = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in text.splitlines()}
        return found["MemTotal"], found["MemAvailable"]
    except (OSError, ValueError, KeyError, IndexError):
        pass
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_PHYS_PAGES") * page, None
    except (OSError, ValueError, AttributeError):
        return None, None


def places() -> Iterator[Check]:
    """Yield how much room there is where whence and torch write."""
    cache = Path(os.environ.get("TORCH_HOME", Path.home() / ".cache"))
    for name, path in (
        ("here", Path.cwd()),
        ("temporary", Path(tempfile.gettempdir())),
        ("cache", cache),
    ):
        near = next(one for one in (path, *path.parents) if one.exists())
        free = shutil.disk_usage(near).free
        writable = os.access(near, os.W_OK)
        yield Check(
            topic="places",
            name=name,
            state="ok" if writable and free > SCARCE else "note",
            says=f"{path}: {amount(free)} free" + ("" if writable else ", not writable"),
            advice="" if free > SCARCE else "Make room, or write elsewhere with --out.",
        )


def brief(error: BaseException) -> str:
    """Return the first line of an error."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

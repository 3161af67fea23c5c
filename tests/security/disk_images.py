"""What a disk would hold if the power went: rebuilt from a record of what a process did to its files.

Rules of this disk, which are the least that POSIX promises:
1. Bytes of a file are durable when fdatasync or fsync of that file has returned; what was written since may be there,
   whole or in part, or not.
2. A name is durable when fsync or fdatasync of its directory has returned.
3. A file that has lost its name is gone; one whose name is not durable is not there.
"""

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512
TRACED = "openat,close,pwrite64,write,fdatasync,fsync,ftruncate,unlink,link,sendto"
CALL = re.compile(r"(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)")
BYTES = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass
class File:
    """One file: what is durable, and what was done to it since."""

    durable: bytes = b""
    now: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes]] = field(default_factory=list)

    def write(self, start: int, content: bytes) -> None:
        if len(self.now) < start:
            self.now.extend(bytes(start - len(self.now)))
        self.now[start : start + len(content)] = content
        for offset in range(0, len(content), SECTOR_BYTES):
            self.pending.append((start + offset, content[offset : offset + SECTOR_BYTES]))

    def truncate(self, size: int) -> None:
        del self.now[size:]
        self.now.extend(bytes(size - len(self.now)))
        self.sync()  # no test here cuts a file that it still needs

    def sync(self) -> None:
        self.durable = bytes(self.now)
        self.pending.clear()

    def torn(self, generator: random.Random) -> bytes:
        """The durable bytes, and any of the sectors written since."""
        content = bytearray(self.durable)
        for start, sector in self.pending:
            if generator.random() < 0.5:
                content.extend(bytes(max(0, start - len(content))))
                content[start : start + len(sector)] = sector
        return bytes(content)


@dataclass
class Disk:
    """The files below one folder."""

    folder: str
    names: dict[str, File] = field(default_factory=dict)
    durable_names: dict[str, File] = field(default_factory=dict)
    descriptors: dict[int, File | None] = field(default_factory=dict)
    """File of a descriptor; None is the folder itself."""

    def apply(self, call: str, words: list[str], texts: list[bytes], result: int) -> None:
        """Do what a successful system call did."""
        first = int(words[0]) if words[0].isdigit() else -1
        paths = [os.fsdecode(text) for text in texts] if call in {"openat", "unlink", "link"} else []
        if any(not self.is_inside(path) for path in paths):
            self.descriptors.pop(result, None)
        elif call == "openat" and paths[0] == self.folder:
            self.descriptors[result] = None
        elif call == "openat":
            self.descriptors[result] = self.names.setdefault(paths[0], File())
        elif call == "unlink":
            del self.names[paths[0]]
        elif call == "link":
            self.names[paths[1]] = self.names[paths[0]]
        elif first in self.descriptors:
            self.apply_to(self.descriptors[first], call, first, words, texts)

    def apply_to(self, file: File | None, call: str, descriptor: int, words: list[str], texts: list[bytes]) -> None:
        """Do what a call did to an open file."""
        if call == "close":
            del self.descriptors[descriptor]
        elif file is None:
            self.durable_names = dict(self.names)
        elif call == "pwrite64":
            file.write(int(words[-1]), texts[0])
        elif call == "ftruncate":
            file.truncate(int(words[1]))
        else:
            file.sync()

    def is_inside(self, path: str) -> bool:
        return path == self.folder or path.startswith(self.folder + "/")

    def least(self) -> Mapping[str, bytes]:
        """Only what is certainly there."""
        return {name: file.durable for name, file in self.durable_names.items()}

    def torn(self, generator: random.Random) -> Mapping[str, bytes]:
        """What may be there: for each name the old or the new file, with any of its newest sectors."""
        names = self.durable_names if generator.random() < 0.5 else self.names
        return {name: file.torn(generator) for name, file in names.items()}


def images(record: Path, folder: Path, start: Disk | None = None) -> Iterator[Disk]:
    """Yield the disk at every send (a write to descriptor 1, or a datagram), just before the bytes are out.

    Args:
        record: what a recorder wrote.
        folder: the one that is watched.
        start: what was there before; by default, nothing.
    """
    disk = start or Disk(str(folder))
    for line in record.read_text().splitlines():
        found = CALL.match(line)
        if not found or int(found.group(3)) < 0:
            continue
        call, arguments, result = found.group(1), found.group(2), int(found.group(3))
        texts = [bytes.fromhex(text.replace("\\x", "")) for text in BYTES.findall(arguments)]
        words = BYTES.sub("", arguments).split(", ")
        if "AF_INET" in arguments if call == "sendto" else call == "write" and words[0] == "1":
            yield disk
        if call in {"sendto", "write"}:
            continue
        disk.apply(call, words, texts, result)


def write_image(image: Mapping[str, bytes], folder: Path) -> None:
    """Make a folder of these files and no others."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in image.items():
        (folder / Path(name).name).write_bytes(content)


def has_strace() -> bool:
    """Whether strace is there and may trace."""
    if shutil.which("strace") is None:
        return False
    command = ["strace", "-o", os.devnull, sys.executable, "-c", ""]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def has_compiler() -> bool:
    """Whether the shim can be compiled."""
    return shutil.which("cc") is not None


def compiled_shim(folder: Path) -> Path:
    """The shim as a library that can be loaded before all others."""
    library = folder / "disk_shim.so"
    source = Path(__file__).with_name("disk_shim.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def recorded(recorder: str, command: list[str], record: Path, root: Path) -> int:
    """Run a command, record what it does to files, and return the bytes it wrote to descriptor 1."""
    environment = dict(os.environ)
    if recorder == "strace":
        command = ["strace", "-f", "-xx", "-s", "1000000", "-e", f"trace={TRACED}", "-o", str(record), *command]
    else:
        library = compiled_shim(record.parent)
        environment |= {"LD_PRELOAD": str(library), "DISK_SHIM_LOG": str(record)}
    result = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, check=True)
    return len(result.stdout)

"""The work folder: downloaded packages, their unpacked files, and archive indices.

Everything in it is a cache: a second build downloads and unpacks nothing that is there. A package
called "name@suite" is taken from that suite of the Debian archive, any other from the machine's
own apt configuration, or, where DEBIAN_MIRROR is set, from the main suite of that archive.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from .registry import LANGS

MAIN_SUITE: str = "bookworm"
LATER_SUITE: str = "trixie"
KEYRING: str = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Pictures and sounds are most of some packages and hold no text.
NO_TEXT: tuple[str, ...] = ("png", "jpg", "ogg", "svgz", "wav", "so", "webp", "dds", "opus")


class BuildError(Exception):
    """Something the user can mend; shown as one line."""


def read(path: str) -> bytes:
    """The bytes of a file, unpacked where its name says that it is compressed."""
    with open(path, "rb") as f:
        b = f.read()
    if path.endswith(".gz"):
        return gzip.decompress(b)
    if path.endswith(".bz2"):
        return bz2.decompress(b)
    if path.endswith(".xz"):
        return lzma.decompress(b)
    return b


def decode(b: bytes, encodings: tuple[str, ...] = ("utf-8", "iso-8859-1")) -> str:
    """Text in the first encoding that fits."""
    for encoding in encodings:
        try:
            return b.decode(encoding)
        except UnicodeDecodeError:
            pass
    return b.decode("utf-8", "replace")


class Workspace:
    """The work folder of a build."""

    def __init__(self, folder: Path, mirror: str | None) -> None:
        self.folder = folder.resolve()
        self.mirror = mirror
        self.debs = self.folder / "debs"
        self.unpacked = self.folder / "unpacked"
        self.archive = self.folder / "archive"
        # Of packages that are no .deb: the version an extractor found.
        self.versions: dict[str, str] = {}
        self.missing: list[str] = []

    # ---- packages

    def deb(self, package: str) -> Path | None:
        """The downloaded .deb of a package."""
        name, _, suite = package.partition("@")
        found = sorted((self.debs / suite).glob(f"{name}_*.deb"), key=lambda p: p.stat().st_mtime)
        return found[-1] if found else None

    def version(self, package: str) -> str:
        deb = self.deb(package)
        if deb is None:
            return self.versions.get(package, "")
        run = subprocess.run(
            ["dpkg-deb", "-f", str(deb), "Version"], capture_output=True, text=True, check=True
        )
        return run.stdout.strip()

    def fetch(self, packages: Iterable[str]) -> None:
        """Download what is missing (one call of apt-get a suite) and unpack it."""
        wanted = list(packages)
        for suite in ("", LATER_SUITE):
            names = [
                p.partition("@")[0]
                for p in wanted
                if p.partition("@")[2] == suite and self.deb(p) is None
            ]
            if names:
                self._download(names, suite)
        for package in wanted:
            deb = self.deb(package)
            if deb is not None:
                self._unpack(deb, self.unpacked / package)
            elif package not in self.missing:
                self.missing.append(package)
                print(f"  not available: {package}", flush=True)

    def _download(self, names: list[str], suite: str) -> None:
        target = self.debs / suite
        target.mkdir(parents=True, exist_ok=True)
        command = ["apt-get", "-qq", "download"]
        if suite or os.environ.get("DEBIAN_MIRROR"):
            self.update_lists()
            command = ["apt-get", *self._apt_options(), "download"]
            names = [f"{name}/{suite or MAIN_SUITE}" for name in names]
        print(f"  downloading {len(names)} packages", flush=True)
        run = subprocess.run([*command, *names], cwd=target, capture_output=True, check=False)
        if run.returncode:  # one unknown name fails the whole call: go one by one
            for name in names:
                subprocess.run([*command, name], cwd=target, capture_output=True, check=False)

    @staticmethod
    def _unpack(deb: Path, target: Path) -> None:
        if target.is_dir():
            return
        part = target.with_name(target.name + ".part")
        part.mkdir(parents=True, exist_ok=True)
        skip = [f"--exclude=*.{ending}" for ending in NO_TEXT]
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE
        ) as archive:
            subprocess.run(["tar", "-x", "-C", str(part), *skip], stdin=archive.stdout, check=True)
        part.rename(target)

    def files(self, package: str, pattern: str) -> Iterator[tuple[str, str, re.Match[str]]]:
        """(path, path in the package, match) of the files whose path matches, in fixed order."""
        root = str(self.unpacked / package)
        regex = re.compile(pattern)
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(folder, name)
                inside = path[len(root) + 1 :]
                match = regex.search(inside)
                if match and os.path.isfile(path) and not os.path.islink(path):
                    yield path, inside, match

    # ---- the Debian archive, for what the machine's own apt lists do not have

    def _apt_options(self) -> list[str]:
        a = self.archive
        return [
            "-qq",
            "-o",
            f"Dir::Etc::SourceList={a}/sources.list",
            "-o",
            "Dir::Etc::SourceParts=/dev/null",
            # the indices are read by name, whatever the machine is
            "-o",
            "APT::Architecture=amd64",
            "-o",
            "APT::Architectures=amd64",
            "-o",
            f"Dir::State::Lists={a}/lists",
            "-o",
            f"Dir::Cache={a}/cache",
        ]

    def update_lists(self) -> None:
        """Own apt lists of two suites, with the translated package descriptions."""
        if list((self.archive / "lists").glob(f"*{LATER_SUITE}*Translation-it*")):
            return
        if not self.mirror:
            raise BuildError(
                "no Debian archive is known: set DEBIAN_MIRROR to one, or leave out "
                "(--skip) the sources that need it"
            )
        if not os.path.exists(KEYRING):
            raise BuildError(f"{KEYRING} is missing: install the package debian-archive-keyring")
        for folder in ("lists/partial", "cache/archives/partial"):
            (self.archive / folder).mkdir(parents=True, exist_ok=True)
        (self.archive / "sources.list").write_text(
            "".join(
                f"deb [signed-by={KEYRING}] {self.mirror} {suite} main\n"
                for suite in (MAIN_SUITE, LATER_SUITE)
            ),
            encoding="utf-8",
        )
        print("  fetching the package indices of the Debian archive", flush=True)
        run = subprocess.run(
            [
                "apt-get",
                *self._apt_options(),
                "-o",
                "Acquire::Languages=" + ",".join(LANGS),
                "update",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        # An archive that cannot be reached is a warning to apt-get, not an error.
        got = all(
            list((self.archive / "lists").glob(f"*_dists_{suite}_main_binary-amd64_Packages*"))
            for suite in (MAIN_SUITE, LATER_SUITE)
        )
        if run.returncode or not got:
            lines = run.stderr.strip().splitlines() or ["no package index"]
            raise BuildError(f"apt-get update of the Debian archive failed: {lines[0]}")

    def apt_index(self, name: str) -> str:
        """The text of an index, for instance "bookworm_main_i18n_Translation-de"."""
        found = sorted((self.archive / "lists").glob(f"*_dists_{name}*"))
        if not found:
            raise BuildError(f"the Debian archive has no index {name}")
        run = subprocess.run(
            ["/usr/lib/apt/apt-helper", "cat-file", str(found[0])], capture_output=True, check=True
        )
        return run.stdout.decode()


def machine_mirror() -> str | None:
    """The Debian archive of DEBIAN_MIRROR or else of the machine's own apt configuration."""
    if os.environ.get("DEBIAN_MIRROR"):
        return os.environ["DEBIAN_MIRROR"]
    run = subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(ORIGIN) $(LABEL) $(REPO_URI)",
            "Created-By: Packages",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in run.stdout.splitlines():
        origin, label, uri = [*line.split(" ", 2), "", ""][:3]
        if origin == "Debian" and label == "Debian":  # the label of its sister archives differs
            return uri
    return None

"""Fetches published vectors. A download that was cut off resumes where it stopped."""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from pgsrm.models.server_errors import on_the_way
from pgsrm.util.errors import UserError, unwritable

# The address in the README of https://github.com/commonsense/conceptnet-numberbatch.
PUBLISHED = {
    "numberbatch": "https://conceptnet.s3.amazonaws.com/downloads/2019/numberbatch/numberbatch-en-19.08.txt.gz",
}
TIMEOUT_SECONDS = 60
BLOCK = 1 << 20


def download(url: str, folder: Path) -> tuple[Path, str]:
    """Fetch `url` into `folder`; returns the file and its SHA-256.

    The server's size is checked. No checksum is published for Numberbatch: the one that was found is written beside the
    file (`….sha256`, as sha256sum reads it), and reading the file later compares with it. A file that is there with the
    noted checksum is not fetched again.

    Raises UserError for a network, a server or a disk that doesn't let it; what has come is kept for the next try.
    """
    path = folder / url.rpartition("/")[2]
    noted = path.with_name(f"{path.name}.sha256")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            part = path.with_name(f"{path.name}.part")
            _fetch(url, part)
            os.replace(part, path)
            noted.unlink(missing_ok=True)
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        if not noted.is_file():
            noted.write_text(f"{checksum}  {path.name}\n")
        elif noted.read_text().split()[:1] != [checksum]:
            raise UserError(
                f"{path}: its SHA-256 is {checksum}, not the one in {noted.name}; delete both and fetch it again"
            )
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        blame = on_the_way(url, str(reason))
        raise UserError(
            f"{url}: can't be fetched ({reason}); check the network{blame}; the same command resumes with what has come"
        ) from error
    except OSError as error:
        raise unwritable("--out", folder, error) from error
    return path, checksum


def _fetch(url: str, part: Path) -> None:
    """Complete `part`, from where it ends."""
    tag = part.with_name(f"{part.name}.etag")  # of another version's beginning nothing is kept
    have = part.stat().st_size if part.is_file() and tag.is_file() else 0
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag.read_text())
    try:
        answer: HTTPResponse = urllib.request.build_opener().open(
            request, timeout=TIMEOUT_SECONDS
        )  # proxies as they are now
    except urllib.error.HTTPError as error:
        if error.code == 416 and have and error.headers.get("Content-Range") == f"bytes */{have}":
            return  # all of it had come
        raise
    with answer:
        have = have if answer.status == 206 else 0
        tag.unlink(missing_ok=True)
        if answer.headers.get("ETag"):
            tag.write_text(answer.headers["ETag"])
        total = have + int(answer.headers["Content-Length"])
        with part.open("ab" if have else "wb") as file:
            while block := answer.read(BLOCK):
                file.write(block)
                _show(file.tell(), total)
    if part.stat().st_size != total:
        raise ConnectionError(f"{part.stat().st_size:,} of {total:,} bytes have come")
    tag.unlink(missing_ok=True)


def _show(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done / 1e6:,.0f} of {total / 1e6:,.0f} MB", end=end, file=sys.stderr, flush=True)

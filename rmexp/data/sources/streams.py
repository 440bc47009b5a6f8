"""Bytes and text of a file, whatever its compression and encoding."""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

from rmexp.core.errors import UserError
from rmexp.core.git_lfs import refuse_lfs_pointer
from rmexp.data.sources.rows import MAX_ROW_BYTES, Note, ReadOptions

SAMPLE_BYTES = 2**20
"""Bytes from which a file's encoding, layout and separator are detected."""

GUESSES = ("gb18030", "big5", "shift_jis", "euc_kr", "cp1252")
"""Encodings that are offered where a file is not UTF-8."""

MAX_EXPANSION = 200
"""Times its size on disk that a compressed file may have, where it is read whole."""

BREAKS = (EOFError, OSError, zlib.error, lzma.LZMAError, UnicodeDecodeError)
"""What a file raises that ends too early or was damaged."""

_OPENERS: dict[str, Any] = {"gzip": gzip.GzipFile, "bz2": bz2.BZ2File, "xz": lzma.LZMAFile}

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins as UTF-16's
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class SourceFile:
    """A local file of rows. Its first bytes tell how it is compressed, not its name."""

    path: Path
    options: ReadOptions
    note: Note

    @cached_property
    def compression(self) -> str | None:
        """The name of it; None: the bytes are plain."""
        with open(self.path, "rb") as stream:
            start = stream.read(8)
        return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)

    def open(self) -> IO[bytes]:
        """The decompressed bytes."""
        if self.compression is None:
            return open(self.path, "rb")
        if self.compression == "zstd":
            import pyarrow

            opened: Any = pyarrow.CompressedInputStream(str(self.path), "zstd")
        else:
            opened = _OPENERS[self.compression](self.path)
        return cast(IO[bytes], io.BufferedReader(opened))

    def read(self) -> bytes:
        """All bytes, decompressed.

        Raises:
            UserError: they are `MAX_EXPANSION` times the file's size.
        """
        limit = max(MAX_ROW_BYTES, MAX_EXPANSION * self.path.stat().st_size)
        with self.open() as stream:
            content = stream.read(limit + 1)
        if len(content) > limit:
            raise UserError(
                f"data.path={self.path} decompresses to more than {MAX_EXPANSION} times its size: "
                "decompress it, or write one JSON object a line (.jsonl)."
            )
        return content

    @cached_property
    def sample(self) -> bytes:
        """The first `SAMPLE_BYTES`.

        Raises:
            UserError: the file is a git-lfs pointer or a web page, not data.
        """
        head = self._head[0]
        refuse_lfs_pointer(head, f"data.path={self.path}")
        if head[:200].lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise UserError(
                f"data.path={self.path} is a web page, not the data: download the file itself "
                "(on the hub: /resolve/ in its address, not /blob/)."
            )
        return head

    @property
    def whole(self) -> bool:
        """Whether the sample is all of the file."""
        return self._head[1]

    @cached_property
    def _head(self) -> tuple[bytes, bool]:
        head = b""
        with self.open() as stream:
            try:
                while len(head) < SAMPLE_BYTES and (more := stream.read(2**16)):
                    head += more
            except BREAKS:  # reported where its rows are read
                return head, False
        return head, len(head) < SAMPLE_BYTES

    @cached_property
    def encoding(self) -> str:
        """The encoding given, or the one that shows.

        Raises:
            UserError: the file is in an encoding that does not show; names the likely ones.
        """
        if self.options.encoding is not None:
            given = codecs.lookup(self.options.encoding).name
            return "utf-8-sig" if given == "utf-8" and self.sample[:3] == codecs.BOM_UTF8 else given
        found = self._shown_encoding()
        if not found.startswith("utf-8"):
            self.note(f"{self.path.name}: read as {found.upper()}")
        elif not found.endswith("sig"):
            self._check_utf8()
        return found

    @cached_property
    def text(self) -> str:
        """The sample as text, without a character that it cuts."""
        errors = "surrogateescape" if self.encoding.startswith("utf-8") else "ignore"
        return self.sample.decode(self.encoding, errors)

    def open_text(self) -> io.TextIOWrapper:
        """The decompressed text, with its line ends; bytes that are no text are lone surrogates."""
        errors = "surrogatepass" if self.encoding[:6] in ("utf-16", "utf-32") else "surrogateescape"
        return io.TextIOWrapper(self.open(), encoding=self.encoding, errors=errors, newline="")

    def _shown_encoding(self) -> str:
        for mark, name in _MARKS.items():
            if self.sample.startswith(mark):
                return name
        start = self.sample[:200]  # of ASCII text, or nearly
        if len(start) >= 4 and max(start[::2].count(0), start[1::2].count(0)) > len(start) // 4:
            return "utf-16-be" if start[0] == 0 else "utf-16-le"
        return "utf-8"

    def _check_utf8(self) -> None:
        """Refuse a file most of whose other lines than ASCII are not UTF-8."""
        lines = self.sample.splitlines()[: None if self.whole else -1]
        other = [line for line in lines if not line.isascii()]
        bad = [line for line in other if not _decodes(line, "utf-8")]
        if len(bad) < 3 or 2 * len(bad) < len(other):
            return
        likely = [name for name in GUESSES if all(_decodes(line, name) for line in bad[:100])]
        raise UserError(
            f"data.path={self.path} is not UTF-8 ({len(bad)} of its first {len(lines)} lines): "
            f"say its encoding, data.encoding={' or '.join(likely or GUESSES)}."
        )


def lines_of(file: SourceFile, limit: int) -> Iterator[tuple[int, bytes | str | None]]:
    """The numbered lines: bytes of UTF-8, text of other encodings, None above `limit`.

    UTF-8 is left to be decoded line by line, so that an error has a line and a byte.
    """
    plain = file.encoding in ("utf-8", "utf-8-sig")
    with file.open() if plain else file.open_text() as stream:
        if file.encoding == "utf-8-sig":
            stream.read(3)
        number = 0
        while line := stream.readline(limit):
            number += 1
            if len(line) < limit or line[-1:] in (b"\n", "\n"):
                yield number, line
                continue
            yield number, None
            while (rest := stream.readline(limit)) and rest[-1:] not in (b"\n", "\n"):
                pass


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True

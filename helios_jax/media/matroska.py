"""Whether a Matroska or WebM file is whole, which FFmpeg does not tell: it takes what there is."""

import os
from typing import BinaryIO


def is_cut_short(path: str | os.PathLike) -> bool:
    """Whether a file ends before its segment does (RFC 8794, section 6; RFC 9559, section 5).

    A file that was written live does not say where its segment ends, and counts as whole.
    """
    with open(path, "rb") as file:
        _read_number(file)  # the name of the header
        file.seek(_read_number(file), os.SEEK_CUR)
        _read_number(file)  # the name of the segment
        begin = file.tell()
        size = _read_number(file)
        content = file.tell()
        unknown = 2 ** (7 * (content - begin)) - 1
        return size != unknown and content + size > os.fstat(file.fileno()).st_size


def _read_number(file: BinaryIO) -> int:
    """An integer of 1 to 8 bytes: as many zero bits as the first begins with are bytes that follow,
    and the one bit after them does not count.
    """
    first = int.from_bytes(file.read(1), "big")
    length = 9 - first.bit_length()
    rest = file.read(length - 1)
    return int.from_bytes(bytes([first & ~(0x80 >> (length - 1))]) + rest, "big")

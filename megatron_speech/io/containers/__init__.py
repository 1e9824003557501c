"""What audio files are made of: streams to be decoded in turn, and whether any of them is cut.

libsndfile believes what a header says of the length, reads the first of several streams and takes
the part of a file that is there for all of it. So the containers are walked here first, by their
headers alone: WAV, RF64, Wave64, AIFF, CAF, AU, SPHERE, FLAC, Ogg and MPEG audio. Other files are
left as they are. Imports no torch.
"""

from typing import BinaryIO

from . import chunks, flac, mpeg, ogg
from .streams import Container, Pieces, Stream, View, whole

__all__ = ["Container", "Pieces", "Stream", "walk"]


def walk(file: BinaryIO, size: int) -> Container:
    """The streams of a file of `size` bytes, or why it is not whole.

    Raises:
        OSError: it cannot be read.
    """
    view = View(file, size)
    magic = view.at(0, 4)
    if magic in chunks.MAGICS:
        return chunks.walk(view)
    if magic == b"fLaC":
        return flac.walk(view)
    if magic == b"OggS":
        return ogg.walk(view)
    if mpeg.is_mpeg(view):
        return mpeg.walk(view)
    return whole(size)

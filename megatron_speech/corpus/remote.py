"""Corpus files that are not on a disk: see `megatron_speech.remote`."""

from ..remote import RemoteFile, find_remote, is_remote

__all__ = ["RemoteFile", "find_remote", "is_remote"]

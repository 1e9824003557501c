"""All readers by name."""

from .audio_readers import AUDIO
from .corpus_readers import CORPORA
from .folder_readers import FOLDERS
from .list_readers import LISTS
from .reader import Reader
from .sound_readers import SOUND
from .text_readers import TEXT

READERS: dict[str, Reader] = {
    r.name: r for r in (*AUDIO, *CORPORA, *LISTS, *SOUND, *TEXT, *FOLDERS)
}

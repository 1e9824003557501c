"""All readers by name."""

from tests.fuzz.audio_readers import AUDIO
from tests.fuzz.corpus_readers import CORPORA
from tests.fuzz.folder_readers import FOLDERS
from tests.fuzz.list_readers import LISTS
from tests.fuzz.reader import Reader
from tests.fuzz.sound_readers import SOUND
from tests.fuzz.text_readers import TEXT
from tests.fuzz.unit_readers import UNITS

READERS: dict[str, Reader] = {
    r.name: r for r in (*AUDIO, *CORPORA, *LISTS, *SOUND, *TEXT, *FOLDERS, *UNITS)
}

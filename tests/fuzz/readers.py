"""All readers by name."""

from .audio_readers import AUDIO
from .folder_readers import FOLDERS
from .list_readers import LISTS
from .reader import Reader
from .sound_readers import SOUND
from .text_readers import TEXT
from .unit_readers import UNITS

READERS: dict[str, Reader] = {r.name: r for r in (*AUDIO, *LISTS, *SOUND, *TEXT, *FOLDERS, *UNITS)}

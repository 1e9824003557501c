"""Talk to a model on a terminal: WAV or FLAC files or typed text in, text and WAV files out.

    python tools/chat.py --model runs/sft/hf --speech-tokenizer runs/tokenizer \\
        --decoder runs/decoder/export --output-dir runs/talk --ask hello.wav "and then?"

Without --ask it reads questions from the terminal, one a line: the path of a recording, or a text.
All of them are turns of one conversation. Answers are written as turn_000.wav, turn_001.wav, ...
Ctrl-C stops an answer, twice the program; at the prompt it ends the conversation, as an empty
line does.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from dataclasses import dataclass, field
    from pathlib import Path

    from megatron_speech import cli
    from megatron_speech.chat.engine import ChatEngine
    from megatron_speech.chat.session import ChatConfig
    from megatron_speech.chat.terminal import TerminalChat
    from megatron_speech.jobs.claims import exclusive


@dataclass(frozen=True, kw_only=True)
class TalkConfig:
    """Whom to talk to, and about what."""

    model: Path
    """Exported folder of the fine-tuned model."""
    speech_tokenizer: Path | None = None
    """Folder of its speech tokenizer; without one, questions are text."""
    decoder: Path | None = None
    """Folder of the speech decoder; without one, answers are text only."""
    output_dir: Path = Path("talk")
    """Folder for the answers' sound."""
    ask: tuple[str, ...] = ()
    """Questions in turn: paths of recordings, or texts."""
    chat: ChatConfig = field(default_factory=ChatConfig)


def main(argv: Sequence[str] | None = None) -> TerminalChat:
    """Ask all questions; returns the conversation."""
    config = cli.parse(TalkConfig, argv, __doc__)
    engine = ChatEngine.from_folders(
        config.model, config.speech_tokenizer, config.decoder, config.chat
    )
    with exclusive(config.output_dir, inside=True):
        talk = TerminalChat(engine.session(), config.output_dir)
        for question in config.ask:
            print(f"> {question}")
            talk.ask(question)
        if not config.ask:
            talk.talk()
    return talk


if __name__ == "__main__":
    cli.run(main, starts_over=True)

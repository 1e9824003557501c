"""Talk to a model in a browser: a page with microphone, transcript and interruption.

    python tools/serve_chat.py --model runs/sft/hf --speech-tokenizer runs/tokenizer \\
        --decoder runs/decoder/export

It listens on this machine only. To talk from elsewhere, either forward the port
(`ssh -L 8765:localhost:8765 machine`) or serve https, since browsers lend no microphone to others:

    python tools/serve_chat.py ... --host 0.0.0.0 --allow-origin https://chat.example.org:8765 \\
        --ssl-certfile cert.pem --ssl-keyfile key.pem --token-file secret.txt
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from dataclasses import dataclass, field
    from pathlib import Path

    from megatron_speech import cli
    from megatron_speech.chat.engine import ChatEngine
    from megatron_speech.chat.server.config import ServerConfig
    from megatron_speech.chat.session import ChatConfig
    from megatron_speech.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What is served."""

    model: Path
    """Exported folder of the fine-tuned model."""
    speech_tokenizer: Path
    """Folder of its speech tokenizer."""
    decoder: Path | None = None
    """Folder of the speech decoder; without one, answers are text."""
    chat: ChatConfig = field(default_factory=ChatConfig)
    server: ServerConfig = field(default_factory=ServerConfig)


def main(argv: Sequence[str] | None = None) -> None:
    """Load the models and serve until Ctrl-C."""
    config = cli.parse(ServeConfig, argv, __doc__)
    try:
        from megatron_speech.chat.server.serve import serve, warm_up
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the server needs {error.name}: pip install -c constraints.txt -e '.[serve]'"
        ) from None
    engine = ChatEngine.from_folders(
        config.model, config.speech_tokenizer, config.decoder, config.chat
    )
    warm_up(engine)
    serve(engine, config.server)


if __name__ == "__main__":
    cli.run(main, starts_over=True)

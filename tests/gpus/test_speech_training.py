"""Two GPUs train a speech tokenizer, and a decoder, as one does: the tests of two processes, which
take NCCL where there are GPUs.
"""

import pytest

from tests.tools import test_train_speech_decoder, test_train_speech_tokenizer

pytestmark = pytest.mark.gpus

manifest = test_train_speech_tokenizer.manifest
speech = test_train_speech_decoder.speech
test_two_gpus_train_a_tokenizer_as_one = test_train_speech_tokenizer.test_two_processes_train_as_one
test_two_gpus_train_a_decoder_as_one = test_train_speech_decoder.test_two_processes_train_as_one

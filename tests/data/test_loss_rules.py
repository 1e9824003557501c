"""Loss rules on token lists written by hand: T text, ( begin, c code, ) end of audio, . eod."""

import numpy as np
import pytest

from megatron_speech.data.loss_rules import LOSS_RULES, RuleTokens, loss_mask
from megatron_speech.errors import ConfigError

KINDS = RuleTokens(
    code_offset=100,
    num_codes=10,
    begin_of_audio=90,
    end_of_audio=91,
    eod=0,
    assistant=80,
    other_roles=(81, 82),
)
IDS = {"T": 5, "(": 90, ")": 91, "c": 103, ".": 0, "A": 80, "U": 81, "S": 82}


def mask_of(rule: str, document: str) -> str:
    """The mask as a string under the labels: x where the loss is taken."""
    ids = np.array([IDS[letter] for letter in document])
    mask = loss_mask(rule, ids[:-1], ids[1:], KINDS)
    return "".join("x" if taken else "-" for taken in mask)


CASES = [
    # the mask belongs to the labels: it starts under the second letter
    ("all", "TT(cc).", "xxxxxx"),
    ("text_only", "TT(cc)TT.", "x----xxx"),
    ("speech_only", "TT(cc)TT.", "--xxx---"),
    ("speech_only", "(cc).", "xxxx"),
    ("speech_after_text", "TT(cc).", "--xxxx"),
    ("speech_after_text", "(cc)TT.", "------"),
    ("speech_after_text", "(cc).TT(cc).", "-------xxxx"),
    ("speech_after_text", "TT.(cc).TT(c).", "----------xxx"),
    ("preference", "TT(cc).TT(c).", "--xxxx---xxx"),
    ("assistant", "STUTTATT.", "-----xxx"),
    ("assistant", "UTATTUTAT.", "--xxx--xx"),
    ("assistant", "UTA(cc)U", "--xxxxx"),
    ("assistant", "UTAT.UT", "--xx--"),
    ("assistant_text", "STU(c)ATTUTATU.", "------xxx--xx-"),
    ("assistant_text", "U(c)AT(cc)U.", "----x------"),
    ("assistant_text", "U(c)ATTccTccU.", "----xx--x----"),
    ("assistant_speech", "STU(c)ATTU.", "----------"),
    ("assistant_speech", "U(c)A(cc)U(c)A(c)U.", "----xxxxx----xxxx-"),
    ("assistant_speech", "U(c)AT(cc)U.", "-----xxxxx-"),
    ("assistant_speech", "U(c)ATTccTccU.", "------xx-xxx-"),
]


@pytest.mark.parametrize(("rule", "document", "expected"), CASES)
def test_rule_on_a_document(rule, document, expected):
    assert mask_of(rule, document) == expected


def test_unknown_rule_is_refused():
    with pytest.raises(ConfigError, match="speech_after_text"):
        mask_of("answers", "TT")


def test_assistant_needs_roles():
    kinds = RuleTokens(code_offset=100, num_codes=10, begin_of_audio=90, end_of_audio=91, eod=0)
    with pytest.raises(ConfigError, match="assistant"):
        loss_mask("assistant", np.array([1]), np.array([2]), kinds)


def test_every_rule_is_tested():
    assert {rule for rule, _, _ in CASES} == set(LOSS_RULES)

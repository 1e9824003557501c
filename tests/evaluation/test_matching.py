"""Answers are matched by words, whatever the script, and by what tells two names apart."""

import pytest

from megatron_speech.evaluation.matching import is_right


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("她住在上海。", "上海", True),
        ("她住在上", "上海", False),
        ("大阪です", "大阪", True),
        ("เขามาจากเชียงใหม่", "เชียงใหม่", True),
        ("เขามาจากเชียงราย", "เชียงใหม่", False),
        ("부산에서 왔어요", "부산", True),
        ("정답은 부산입니다.", "부산", True),
        ("부산물 창고", "부산", False),
        ("वह मुंबई में रहती है", "मुंबई", True),
        ("वह मंबई में रहती है", "मुंबई", False),
        ("Она живёт в Туле.", "Туле", True),
        ("قال كِتاب", "كتاب", True),
        ("答案是7。", "7", True),
        ("我说OK吧", "OK", True),
        ("seven", "7", True),
        ("C", "C++", False),
        ("It is written in C++.", "C", False),
        ("It is written in C++.", "C++", True),
        ("C plus plus", "C++", True),
        ("C#", "C", False),
        ("F sharp", "F#", True),
        ("vitamin C plus zinc", "C", True),
        ("A*", "A", False),
        ("It is -5 degrees", "5", False),
        ("It is \u22125 degrees", "minus five", True),
        ("pages 3-5", "5", True),
        ("the U.K. voted", "UK", True),
        ("the UK voted", "U.K.", True),
        ("", "上海", False),
        ("...", "!", False),
    ],
)
def test_a_reference_is_found_as_words(answer, reference, right):
    assert is_right(answer, [reference]) is right

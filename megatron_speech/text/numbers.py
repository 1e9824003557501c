"""Numbers in words, where one reading is sure; every other number is left as it is written.

Left alone are ranges, scores, dates, times and telephone numbers, versions, grouping and decimals
of other languages than English, and what may or may not be a year.
"""

import re
from decimal import Decimal

from ..errors import ConfigError
from .writing_systems import base_language

_NOT_BEFORE = (
    r"(?<![\w.,:;/\\#+*^~=§°\u2009\u202f'’$€£¥₹₩₽₺₫₪฿¢×–—-])"
    r"(?<!\d[\s\u00a0])(?<!\d\s[-–—+/*=×]\s)"
)
"""Before a number: whatever makes it part of something larger."""
_NOT_AFTER = (
    r"(?![\w:/\\°′″*^~=×'’]|[.,;+–—-][\d$€£¥]|\s?[–—×]\s?\d|\s\d|\s[-–—+/*=]\s\d"
    r"|\s?[$€£¥₹₩₽₺₫₪฿¢‰%])"
)
_ENGLISH = re.compile(
    _NOT_BEFORE + r"(?P<currency>[$€£])?(?P<sign>(?<![^\s(])[-−])?"
    r"(?P<whole>\d{1,3}(?:,\d{3})++|\d++)(?P<part>\.\d++)?"
    r"(?:(?P<ordinal>st|nd|rd|th)\b|(?P<percent>[\s\u00a0]?%)|"
    r"[\s\u00a0](?P<magnitude>hundred|thousand|million|billion|trillion)\b)?" + _NOT_AFTER
)
_CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
}
_MONTHS = "|".join(
    "january february march april may june july august september october november december "
    "jan feb mar apr jun jul aug sept sep oct nov dec".split()
)
_A_YEAR_FOLLOWS = re.compile(
    rf"\b(?:(?:{_MONTHS})\.?,?|year|(?P<cue>in|since|until|till|before|after|during|summer|winter"
    r"|spring|autumn|early|late|circa))\s$",
    re.IGNORECASE,
)
_NO_UNIT_FOLLOWS = re.compile(r"\W*$|[.,;!?)\"”]|\s(?:and|the|a|an|he|she|it|they|we|I|was|when)\b")
_YEARS = range(1100, 2100)
_AN_ARTICLE = re.compile(r"\b(?:a|an|the|this|that|each|every|per)\s$", re.IGNORECASE)
_NO_FRACTION_FOLLOWS = re.compile(r"\b(?:at|by|from|until|till|version)\s$", re.IGNORECASE)
_HALF_OF_THE_DAY = re.compile(r"\s?[ap]\.?m\b", re.IGNORECASE)
_PART_OF_THE_AMOUNT = re.compile(r"[-–—/]|\s(?:hundred|thousand|[mbtr]+illion|[mb]n|[kmb])\b")
_WORDS_OF_SYMBOLS = (
    (re.compile(r"&(?!#?\w+;)"), "and"), (re.compile(r"(?<=\w)\+|\+(?!\d)"), "plus"),
    (re.compile("="), "equals"),
)  # fmt: skip

_OTHER = re.compile(
    _NOT_BEFORE + r"(?<![$€£-]\s)(?P<whole>\d++)(?!\.|[\s\u00a0]?[%ºª°])" + _NOT_AFTER
)
_AGREE_FROM_THREE = frozenset(
    "ar be bg bs ca cs es gl he hr is lt lv mk pl pt ro ru sk sl sr uk".split()
)
"""Languages in which the word for two, too, depends on what is counted."""
_MOST_DIGITS = 15


def require_language(language: str) -> None:
    """Refuse a language whose numbers num2words cannot say.

    Raises:
        ConfigError: it cannot, or num2words is not installed.
    """
    try:
        num2words()(1, lang=language)
    except NotImplementedError:
        raise ConfigError(
            f"--spoken-numbers: num2words does not know language {language!r}; give another "
            "--language or leave numbers as they are"
        ) from None


def numbers_in_words(text: str, language: str) -> str:
    """`text` with the numbers that can be read in one way only as words of `language`.

    In English & + = are words too, and % behind a number.
    """
    if base_language(language) != "en":
        text = _OTHER.sub(lambda match: _other(match, language), text)
        return " ".join(text.split())
    text = _ENGLISH.sub(lambda match: _english(match, language) or match[0], text)
    for symbol, word in _WORDS_OF_SYMBOLS:
        text = symbol.sub(f" {word} ", text)
    return " ".join(text.split())


def _other(match: re.Match[str], language: str) -> str:
    """One whole number of a language in which thousands and decimals are written otherwise."""
    digits = match["whole"]
    least = 3 if base_language(language) in _AGREE_FROM_THREE else 2
    agrees = int(digits[-1]) in range(1, least) and digits[-2:] not in ("11", "12")
    if agrees or int(digits) in _YEARS or not _is_plain(digits):
        return match[0]
    return num2words()(int(digits), lang=language)


def _is_plain(digits: str) -> bool:
    return len(digits) <= _MOST_DIGITS and (digits == "0" or not digits.startswith("0"))


def _english(match: re.Match[str], language: str) -> str | None:
    """Words of one number, None where it can be read otherwise."""
    whole, part = match["whole"].replace(",", ""), match["part"] or ""
    if not _is_plain(whole) or len(whole + part) > _MOST_DIGITS:
        return None
    if match["currency"]:
        return _money(match, whole, part, language)
    if part and not _is_decimal(match):
        return None
    say = num2words()
    if match["ordinal"]:
        said = say(int(whole), to="ordinal_num", lang=language)
        whole_ordinal = not part and not match["sign"] and said == whole + match["ordinal"]
        return say(int(whole), lang=language, to="ordinal") if whole_ordinal else None
    after = " percent" if match["percent"] else ""
    after = f" {match['magnitude']}" if match["magnitude"] else after
    bare = match["whole"] == whole and not (part or after or match["sign"])
    if bare and int(whole) in _YEARS and int(whole) % 1000:
        return say(int(whole), lang=language, to="year") if _is_year(match) else None
    number = Decimal(whole + part)
    return say(-number if match["sign"] else number, lang=language) + after


def _is_decimal(match: re.Match[str]) -> bool:
    """Not 10.30 am, version 3.10, or 12.000, which is twelve thousand elsewhere."""
    text, start = match.string, match.start()
    return not (
        match["part"].endswith("0")
        or _NO_FRACTION_FOLLOWS.search(text, max(start - 9, 0), start)
        or _HALF_OF_THE_DAY.match(text, match.end())
    )


def _is_year(match: re.Match[str]) -> bool:
    before = _A_YEAR_FOLLOWS.search(match.string, max(match.start() - 16, 0), match.start())
    if before is None:
        return False
    return before["cue"] is None or bool(_NO_UNIT_FOLLOWS.match(match.string, match.end()))


def _money(match: re.Match[str], whole: str, part: str, language: str) -> str | None:
    # "a $5 note" has no plural
    attribute = _AN_ARTICLE.search(match.string, max(match.start() - 8, 0), match.start())
    goes_on = _PART_OF_THE_AMOUNT.match(match.string, match.end())
    if match["ordinal"] or match["percent"] or attribute or goes_on:
        return None
    say, (one, many, cent, cents) = num2words(), _CURRENCIES[match["currency"]]
    if match["magnitude"]:
        return f"{say(Decimal(whole + part), lang=language)} {match['magnitude']} {many}"
    if part and len(part) != 3:
        return None
    said = [f"{say(int(whole), lang=language)} {one if whole == '1' else many}"]
    if part and int(part[1:]):
        small = int(part[1:])
        said.append(f"{say(small, lang=language)} {cent if small == 1 else cents}")
        said = said[1:] if whole == "0" else said
    return ", ".join(said)


def num2words():
    """The function of the package of that name.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from num2words import num2words
    except ImportError:
        raise ConfigError(
            "--spoken-numbers needs the package num2words: "
            "pip install -c constraints.txt -e '.[numbers]'"
        ) from None
    return num2words

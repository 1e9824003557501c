"""A language model as judge, behind any endpoint that speaks OpenAI's chat completions.

Two prompts, in our own words, of the kind the paper's chat evaluation uses (section 7.4): quality
from 1 to 10, answered as [[n]], and correctness against reference answers, answered as JSON. A
judge sees text: what was written, or the transcript of what was said.
"""

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..jobs.progress import Progress

_QUALITY = """You grade answers of a voice assistant. Read the question and the answer, which \
were both spoken and written down by a recogniser, so forgive spelling. Judge how helpful, \
relevant, correct and clear the answer is, and whether it suits being heard. First explain in two \
sentences. Then give a whole number from 1 (useless) to 10 (could not be better) in double \
brackets, like [[7]].

Question: {question}

Answer: {answer}"""

_CORRECTNESS = """You check answers to factual questions. The answer counts as correct if it \
states at least one of the reference answers, in whatever words; spelling does not matter, for \
the answer was spoken and written down by a recogniser. An answer that hedges between several is \
wrong. Reply with a JSON object only: \
{{"analysis": "one sentence", "judgment": "correct" or "wrong"}}

Question: {question}

Reference answers: {references}

Answer: {answer}"""

_GRADE = re.compile(r"\[\[\s*(\d{1,2})\s*\]\]")
_OBJECT = re.compile(r"\{.*\}", re.DOTALL)
_WAIT_S = 2.0
_NO_REPLY = (OSError, http.client.HTTPException, ValueError, LookupError, TypeError)
"""No server, a reply that breaks off or is no HTTP, one that is no completion."""


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Where the judge is. Nothing is sent anywhere without --judge-url."""

    judge_url: str | None = None
    """Base address of an OpenAI-compatible server, as http://127.0.0.1:8000/v1."""
    judge_model: str = "gpt-4o-2024-05-13"
    """Name of the judging model; the paper's by default."""
    judge_key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key, if the server wants one."""
    judge_timeout_s: float = 60.0
    """Seconds to wait for one reply."""
    judge_attempts: int = 3
    """Tries per question, for servers that are busy and replies that cannot be read."""
    judge_requests_at_once: int = 4
    """Questions asked side by side."""

    def __post_init__(self) -> None:
        if self.judge_url is not None and not self.judge_url.startswith(("http://", "https://")):
            raise ConfigError(
                f"--judge-url is {self.judge_url!r}; expected http://HOST/v1 or https://HOST/v1"
            )
        if self.judge_attempts < 1 or self.judge_requests_at_once < 1 or self.judge_timeout_s <= 0:
            raise ConfigError("--judge-attempts, --judge-requests-at-once, -timeout-s: above 0")


@dataclass(frozen=True)
class Question:
    """What to judge; with references its correctness is judged too."""

    question: str
    answer: str
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """`quality` 1 to 10 and `correct`, None where not asked for or not to be had; then `error`."""

    quality: int | None = None
    correct: bool | None = None
    error: str | None = None


class Judge:
    """Asks the server that a config names.

    Raises:
        ConfigError: the config names none.
    """

    def __init__(self, config: JudgeConfig):
        if config.judge_url is None:
            raise ConfigError("a judge needs --judge-url")
        self._config = config
        self._url = config.judge_url.rstrip("/") + "/chat/completions"

    def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        """A verdict on each; a reply that cannot be had is an `error`, not an exception."""
        with (
            Progress("judge", len(questions), "answers") as progress,
            ThreadPoolExecutor(self._config.judge_requests_at_once) as pool,
        ):
            found = []
            for verdict in pool.map(self._verdict, questions):
                found.append(verdict)
                progress.advance()
        return found

    def _verdict(self, item: Question) -> Verdict:
        quality, error = self._ask(
            _QUALITY.format(question=item.question, answer=item.answer), read_grade
        )
        correct = None
        if item.references and error is None:
            prompt = _CORRECTNESS.format(
                question=item.question, references="; ".join(item.references), answer=item.answer
            )
            correct, error = self._ask(prompt, read_judgment)
        return Verdict(quality, correct, error)

    def _ask(self, prompt: str, read: Any) -> tuple[Any, str | None]:
        """What `read` makes of the reply, or None and what went wrong last."""
        error = None
        for attempt in range(self._config.judge_attempts):
            if attempt:
                time.sleep(_WAIT_S * attempt)
            try:
                reply = self._complete(prompt)
            except _NO_REPLY as failure:
                error = f"no reply: {failure!r}"[:300]
                continue
            found = read(reply)
            if found is not None:
                return found, None
            error = f"cannot be read: {reply!r}"[:300]
        return None, error

    def _complete(self, prompt: str) -> str:
        body = {
            "model": self._config.judge_model,
            "temperature": 0,
            "messages": [{"role": "user", "content": prompt}],
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self._config.judge_key_variable):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self._config.judge_timeout_s) as answer:
            content = json.loads(answer.read())["choices"][0]["message"]["content"]
        return str(content)


def read_grade(reply: str) -> int | None:
    """The last [[n]] of a reply, None without one from 1 to 10."""
    grades = [int(grade) for grade in _GRADE.findall(reply)]
    return grades[-1] if grades and 1 <= grades[-1] <= 10 else None


def read_judgment(reply: str) -> bool | None:
    """Whether a reply's JSON says correct, None if it says nothing."""
    found = _OBJECT.search(reply)
    try:
        said = json.loads(found.group())["judgment"] if found else None
    except (json.JSONDecodeError, KeyError, TypeError):
        return None
    return {"correct": True, "wrong": False}.get(str(said).strip().lower())

"""What the chat needs of a vLLM server, around a model of transformers: greedy, one at a time.

tests/long/test_vllm_chat.py asks the same of vLLM itself.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from transformers import LlamaForCausalLM


class _Handler(BaseHTTPRequestHandler):
    """Answers as vLLM's OpenAI server does; all it knows is on its `server`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        assert self.path == "/v1/models"
        self._reply(200, {"data": [{"id": "tiny", "max_model_len": self.server.context_tokens}]})

    def do_POST(self):
        server = self.server
        assert self.path == "/v1/completions"
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert request["model"] == "tiny"
        with server.lock:
            server.answering += 1
        server.requests.append(request)
        try:
            self._answer(request)
        finally:
            with server.lock:
                server.answering -= 1

    def _answer(self, request):
        server = self.server
        allowed = torch.tensor(request["allowed_token_ids"])
        if int(allowed.max()) >= server.model.config.vocab_size:
            self._reply(400, {"message": "allowed_token_ids contains out-of-vocab token id"})
            return
        wait_for(server.answers)
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        ids = list(request["prompt"])
        with suppress(OSError):  # the client has heard enough
            self.end_headers()
            wait_for(server.begins)
            for _ in range(min(request["max_tokens"], server.most_tokens)):
                with torch.inference_mode(), server.model_lock:
                    logits = server.model(torch.tensor([ids])).logits[0, -1]
                ids.append(int(allowed[logits[allowed].argmax()]))
                server.made += 1
                if server.made == server.pauses_at:
                    wait_for(server.goes_on)
                self._event(json.dumps({"choices": [{"token_ids": ids[-1:]}]}))
            self._event("[DONE]")
            self.wfile.write(b"0\r\n\r\n")

    def _event(self, data):
        line = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

    def _reply(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        del format, args


@contextmanager
def vllm_stand_in(folder: Path, context_tokens: int = 512) -> Iterator[ThreadingHTTPServer]:
    """A server; `requests` are those it got, `answering` those it has not ended, `made` the tokens
    it made, `most_tokens` how many it makes before it breaks. While the event `answers` is cleared
    it says nothing, while `begins` is it says nothing but the header, and of `pauses_at` tokens it
    makes no more while `goes_on` is."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.model, server.context_tokens = LlamaForCausalLM.from_pretrained(folder), context_tokens
    server.lock, server.model_lock = threading.Lock(), threading.Lock()
    server.requests, server.answering = [], 0
    server.made, server.most_tokens, server.pauses_at = 0, 1 << 30, None
    server.answers, server.begins, server.goes_on = (threading.Event() for _ in range(3))
    for event in (server.answers, server.begins, server.goes_on):
        event.set()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        for event in (server.answers, server.begins, server.goes_on):
            event.set()
        server.shutdown()
        server.server_close()
        thread.join()


def wait_for(event: threading.Event) -> None:
    """Until a test sets it; a client that waits for the server meets an error after a minute."""
    if not event.wait(60):
        raise TimeoutError("nobody let the server go on")


def url_of(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"

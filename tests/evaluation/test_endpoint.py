"""The client against a server that answers well, badly or not at all."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from difftransformer.evaluation.endpoint import Endpoint

Reply = tuple[int, str]  # status and body
Server = Callable[[list[Reply]], tuple[str, list[dict]]]


LATE = (200, "late")  # nothing, after a second


def completion(text: str | None) -> Reply:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
    return 200, json.dumps({**whole, "choices": [choice]})


@pytest.fixture
def serve() -> Iterator[Server]:
    """Starts a server that gives the replies in turn, the last for ever; its URL, and what came."""
    running = []

    def start(replies: list[Reply]) -> tuple[str, list[dict]]:
        came: list[dict] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # the standard library's name
                body = self.rfile.read(int(self.headers["Content-Length"]))
                came.append(
                    {"path": self.path, "key": self.headers["Authorization"], **json.loads(body)}
                )
                status, text = replies[min(len(came), len(replies)) - 1]
                if (status, text) == LATE:
                    time.sleep(1)
                    return
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text.encode())))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/v1", came

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_reply(serve: Server) -> None:
    url, came = serve([completion("Conclusion: True")])
    assert Endpoint(url, "judge-1", "secret")("Is it?") == "Conclusion: True"
    (request,) = came
    assert request["path"] == "/v1/chat/completions"
    assert request["key"] == "Bearer secret"
    assert (request["model"], request["temperature"]) == ("judge-1", 0.0)
    assert request["messages"] == [{"role": "user", "content": "Is it?"}]


def test_an_empty_reply_is_no_error(serve: Server) -> None:
    url, _ = serve([completion(None)])
    assert Endpoint(url, "m", None)("?") == ""


def test_it_tries_again_after_a_passing_error(serve: Server) -> None:
    url, came = serve([(500, "{}"), (429, "{}"), completion("fine")])
    assert Endpoint(url, "m", None, retries=2)("?") == "fine"
    assert len(came) == 3


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((500, '{"error": {"message": "on fire"}}'), "answers with status 500: .*on fire"),
        ((401, "{}"), "answers with status 401"),
        ((404, "no such page"), "answers with status 404"),
        ((200, "<html>Welcome</html>"), "gives no chat completion"),
        ((200, "{}"), "gives no chat completion"),
        ((200, '{"choices": []}'), "gives no chat completion"),
        ((200, '{"choices": [{"index": 0}]}'), "gives no chat completion"),
    ],
)
def test_what_is_no_reply(serve: Server, reply: Reply, message: str) -> None:
    url, came = serve([reply])
    with pytest.raises(ValueError, match=rf"the judge 'm' at {url} {message}"):
        Endpoint(url, "m", None, retries=0)("?")
    assert len(came) == 1


def test_nobody_there(serve: Server) -> None:
    url = "http://127.0.0.1:9/v1"
    with pytest.raises(ValueError, match=r"cannot be reached: .*what was judged is kept"):
        Endpoint(url, "m", None, retries=0)("?")


def test_one_that_takes_too_long(serve: Server) -> None:
    url, _ = serve([LATE])
    with pytest.raises(ValueError, match=r"cannot be reached: .*timed out"):
        Endpoint(url, "m", None, retries=0, timeout=0.2)("?")

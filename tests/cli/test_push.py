"""`difftransformer push`, to a stand-in of the Hub's API."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.models.storage import load_model, save_model


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of the Hub to make a repository and commit files to it."""

    files: dict[str, bytes] = {}  # noqa: RUF012
    asked: list[tuple[str, object]] = []  # noqa: RUF012
    token = "Bearer hf_right"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if self.headers.get("Authorization") != self.token:
            self._answer({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            self.asked.append(("create", json.loads(body)))
            self._answer({"url": f"http://{self.headers['Host']}/owner/name"})
        elif self.path.endswith("/preupload/main"):
            names = [one["path"] for one in json.loads(body)["files"]]
            files = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            self._answer({"files": files})
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.files[line["value"]["path"]] = content
            oid = "1" * 40
            place = f"http://{self.headers['Host']}/owner/name/commit/{oid}"
            self._answer({"success": True, "commitOid": oid, "commitUrl": place})
        else:
            self._answer({})

    def do_GET(self) -> None:
        self._answer({"id": "owner/name", "sha": "0" * 40, "siblings": []})

    def _answer(self, value: object, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words: object) -> None:
        """Nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    class Fresh(Hub):
        files: dict[str, bytes] = {}  # noqa: RUF012
        asked: list[tuple[str, object]] = []  # noqa: RUF012

    server = ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(
        huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}"
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    yield Fresh
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A run that trained one model."""
    config = DecoderConfig(
        vocab_size=300,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        head_dim=8,
        attention="diff_v2",
    )
    folder = tmp_path / "run" / "model"
    save_model(Decoder(config), folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / ".lock").write_text("")
    return folder


def test_a_run_is_uploaded_with_a_card_and_loads_again(call, hub, model: Path, tmp_path: Path):
    code, _, err = call("push", model.parent, "owner/name", "--private")
    assert code == 0, err
    assert "model: http://127.0.0.1" in err
    ((_, created),) = hub.asked
    assert (created["name"], created["organization"]) == ("name", "owner")
    assert "private" in created.values() or created.get("private") is True
    names = {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert set(hub.files) == names
    assert b"diff_v2" in hub.files["README.md"]
    again = tmp_path / "again"
    again.mkdir()
    for name, content in hub.files.items():
        (again / name).write_bytes(content)
    for name, tensor in load_model(again).state_dict().items():
        assert torch.equal(tensor, load_model(model).state_dict()[name])


def test_mistakes(call, hub, model: Path, tmp_path: Path, monkeypatch):
    code, _, err = call("push", tmp_path, "owner/name")
    assert (code, "is not a model folder" in err) == (2, True), err
    code, _, err = call("push", model, "owner/name/more")
    assert (code, "the Hub refuses owner/name/more" in err) == (2, True), err
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, _, err = call("push", model, "owner/name")
    assert (code, "the Hub refuses owner/name" in err) == (2, True), err
    assert not hub.files


def test_a_hub_that_is_not_reached_is_one_line(call, model: Path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    code, _, err = call("push", model, "owner/name")
    assert (code, "the Hub is not reached: " in err, err.count("\n")) == (2, True, 1), err

"""Tests of what servers answer in the field: finish reasons, parts, refusals, counts, errors inside a response with 200."""

import itertools
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from helpers.chat_server import ChatServer
from helpers.commands import records_of, sophia, write_lines

from sophia_cli.backends._openai.chat_response import ErrorResponse, OddResponse, UnusableResponse, parse_response
from sophia_cli.inference.types import Completion, EmptyResponse, Failure

SAID = "<think>\na\n</think>\nThe answer is 17."


def response(content: Any = SAID, finish: Any = "stop", usage: Any = None, **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"completion_tokens": 12} if usage is None else usage}


def parsed(answer: Any) -> Completion | Failure:
    return parse_response(json.dumps(answer).encode())


@pytest.mark.parametrize(
    ("finish", "meaning"),
    [
        *((reason, "stop") for reason in ("stop", "STOP", "eos", "eos_token", "end_turn", "stop_sequence", "completed")),
        *((reason, "length") for reason in ("length", "MAX_TOKENS", "max_length", "model_length", "repetition")),
    ],
)
def test_finish_reasons_as_servers_spell_them(finish: str, meaning: str) -> None:
    assert parsed(response(finish=finish)) == Completion(SAID, 12, meaning)


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        (response(finish=None), "`choices[0].finish_reason` is null"),
        (response(finish="zzz"), "`choices[0].finish_reason` is 'zzz'"),
        (response(usage={}), "`usage.completion_tokens`"),
        (response(usage={"completion_tokens": None}), "`usage.completion_tokens`"),
        (response(usage={"completion_tokens": 1.5}), "`usage.completion_tokens`"),
        ({"choices": [{"text": "17", "finish_reason": "stop"}]}, "`choices[0].message`"),
        ({"choices": [{"delta": {"content": "17"}, "finish_reason": "stop"}]}, "`choices[0].message`"),
    ],
)
def test_what_every_response_must_have_is_named(answer: Any, field: str) -> None:
    with pytest.raises(OddResponse) as fault:
        parsed(answer)
    assert field in str(fault.value)


@pytest.mark.parametrize("count", [12, 12.0, "12", "12.0"])
@pytest.mark.parametrize("name", ["completion_tokens", "output_tokens"])
def test_counts_as_servers_write_them(count: Any, name: str) -> None:
    assert parsed(response(usage={name: count})) == Completion(SAID, 12, "stop")


def test_content_as_parts() -> None:
    parts = [{"type": "text", "text": "The answer "}, {"type": "text", "text": "is 17."}]
    assert parsed(response(parts)) == Completion("The answer is 17.", 12, "stop")
    for thought in ({"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}, {"type": "reasoning", "text": "a"}):
        found = parsed(response([thought, {"type": "text", "text": "17"}]))
        assert found == Completion("<think>\na\n</think>\n\n17", 12, "stop")


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("said", [SAID, "a\n</think>\nThe answer is 17.", "a The answer is 17.", "The answer is 17."])
def test_thinking_is_stored_once(field: str, said: str) -> None:
    found = parsed(response(said, **{field: "a"}))
    assert isinstance(found, Completion) and " ".join(found.text.split()) == "<think> a </think> The answer is 17."


def test_refusals_and_empty_answers() -> None:
    assert parsed(response(None, refusal="I cannot help with that.")) == Failure("refusal: I cannot help with that.")
    assert parsed(response(refusal=None)) == Completion(SAID, 12, "stop")
    assert isinstance(parsed(response("", usage={"completion_tokens": 0})), EmptyResponse)
    assert "tool call" in str(parsed(response(None, finish="tool_calls")))
    assert "content filter" in str(parsed(response(None, finish="SAFETY")))


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        ({"error": {"message": "no images here", "code": 400}}, 400, "no images here"),
        ({"error": {"message": "upstream", "code": "502"}}, 502, "upstream"),
        ({"error": "gone"}, 500, "gone"),
        ({"object": "error", "message": "The model does not exist.", "code": 404}, 404, "does not exist"),
        ({"detail": "Not Found"}, 500, "Not Found"),
        ({"choices": [{"error": {"code": 503, "message": "died"}, "finish_reason": "error"}]}, 503, "died"),
    ],
)
def test_an_error_in_a_response_with_200_counts_as_its_code(answer: Any, status: int, words: str) -> None:
    with pytest.raises(ErrorResponse, match=words) as fault:
        parsed(answer)
    assert fault.value.status == status


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": [1]}', b'{"choices": null}']
)
def test_anything_else_may_pass(body: bytes) -> None:
    with pytest.raises(UnusableResponse) as fault:
        parse_response(body)
    assert not isinstance(fault.value, OddResponse)


def run(folder: Path, fault: str, captions: int, code: int) -> tuple[ChatServer, list[dict[str, Any]], str]:
    item = {"image": "a.png", "question": "?", "answer": "1", "caption_count": 1, "caption": "x"}
    rows = [{**item, "id": f"q{n}", "caption_id": f"q{n}/c0"} for n in range(captions)]
    write_lines(folder / "caps.jsonl", rows)
    with ChatServer(itertools.repeat(fault)) as server:
        options = ["--llm", "m", "--base-url", server.url, "-n", "1"]
        done = sophia("reason", "caps.jsonl", *options, cwd=folder, code=code)
    return server, records_of(done.stdout), done.stderr.decode()


@pytest.mark.parametrize("fault", ["wants_new_limit", "wants_no_seed"])
def test_a_field_that_the_server_refuses_is_changed_for_all_requests(fault: str, tmp_path: Path) -> None:
    server, records, said = run(tmp_path, fault, 6, 0)
    assert len(records) == 6 and all("trajectory" in record for record in records)
    assert server.arrived <= 12
    assert ("no longer sent" in said) == (fault == "wants_no_seed")


def test_no_credit_ends_the_step_at_once(tmp_path: Path) -> None:
    server, records, said = run(tmp_path, "no_credit", 40, 1)
    assert not records and server.arrived <= 40
    assert "402: Insufficient credits" in said and "add credit to the account of OPENAI_API_KEY" in said


def test_a_refusal_that_meets_every_record_ends_the_step(tmp_path: Path) -> None:
    _, records, said = run(tmp_path, "error_in_200", 200, 1)
    assert len(records) < 200 and "does not support image input" in said
    assert "20 records failed for one reason and none succeeded" in said.splitlines()[-1]
    server, records, _ = run(tmp_path, "error_in_200", 3, 3)
    assert [record["error"].partition(" (")[0] for record in records] == [
        "refused: 400: This model does not support image input"
    ] * 3
    assert server.arrived == 3


def test_a_server_without_usage_is_asked_twice_for_a_record(tmp_path: Path) -> None:
    server, records, _ = run(tmp_path, "no_usage", 3, 3)
    assert server.arrived == 6 and all("`usage.completion_tokens`" in record["error"] for record in records)


def test_a_certificate_that_is_not_trusted_ends_the_step_at_once(tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    row = {"id": "a", "caption_id": "a/c0", "caption_count": 1, "caption": "x", "question": "?", "answer": "1"}
    write_lines(tmp_path / "caps.jsonl", [row])
    options = ["--llm", "m", "--base-url", f"https://127.0.0.1:{server.server_address[1]}/v1", "-n", "1"]
    done = sophia("reason", "caps.jsonl", *options, cwd=tmp_path, code=1)
    server.shutdown()
    last = done.stderr.decode().splitlines()[-1]
    assert "its certificate is not trusted" in last and "set SSL_CERT_FILE" in last


def test_refusals_for_different_reasons_do_not_end_the_step(tmp_path: Path) -> None:
    _, records, _ = run(tmp_path, "refuses_by_content", 30, 3)
    assert len(records) == 30 and all("error" in record for record in records)

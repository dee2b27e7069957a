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

from sophia_cli.backends._openai.chat_response import (
    ErrorResponse,
    OddResponse,
    UnusableResponse,
    error_message,
    parse_response,
)
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
@pytest.mark.parametrize("said", [SAID, "a\n</think>\nThe answer is 17.", "a\n\nThe answer is 17.", "The answer is 17."])
def test_thinking_is_stored_once(field: str, said: str) -> None:
    found = parsed(response(said, **{field: "a"}))
    assert isinstance(found, Completion) and " ".join(found.text.split()) == "<think> a </think> The answer is 17."


@pytest.mark.parametrize(
    ("said", "thought"),
    [("5", "5"), ("17 apples", "17"), ("2+3=5, so 5.", "2+3=5"), ("The answer is 5.", "The answer is 5.")],
)
def test_an_answer_that_begins_like_its_thinking_stays(said: str, thought: str) -> None:
    found = parsed(response(said, reasoning=thought))
    assert isinstance(found, Completion) and found.text == f"<think>\n{thought}\n</think>\n\n{said}"


@pytest.mark.parametrize(
    "thinking",
    [
        {"reasoning_content": "<think>\na\n</think>"},
        {"thinking": "a"},
        {"reasoning": {"content": "a"}},
        {"reasoning_details": [{"type": "reasoning.text", "text": "a"}]},
    ],
)
def test_thinking_in_any_field(thinking: dict[str, Any]) -> None:
    assert parsed(response("17", **thinking)) == Completion("<think>\na\n</think>\n\n17", 12, "stop")


@pytest.mark.parametrize(
    "content",
    [
        ["The answer ", "is 17."],
        [{"text": "The answer is 17."}],
        {"type": "text", "text": "The answer is 17."},
        [{"type": "text", "text": {"value": "The answer is 17.", "annotations": []}}],
    ],
)
def test_content_in_any_form(content: Any) -> None:
    assert parsed(response(content)) == Completion("The answer is 17.", 12, "stop")


def test_content_that_is_no_text_is_named() -> None:
    with pytest.raises(OddResponse, match="message.content` has"):
        parsed(response([{"type": "text", "text": {"x": 1}}]))


def test_refusals_and_empty_answers() -> None:
    assert parsed(response(None, refusal="I cannot help with that.")) == Failure("refusal: I cannot help with that.")
    part = {"type": "refusal", "refusal": "I cannot do it."}
    assert parsed(response([part])) == Failure("refusal: I cannot do it.")
    assert parsed(response(refusal=None)) == Completion(SAID, 12, "stop")
    assert isinstance(parsed(response("", usage={"completion_tokens": 0})), EmptyResponse)
    assert "tool call" in str(parsed(response(None, finish="tool_calls")))
    assert "content filter" in str(parsed(response(None, finish="SAFETY")))


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        ({"error": {"message": "no images here", "code": 400}}, 400, "no images here"),
        ({"error": {"message": "upstream", "code": "502"}}, 502, "upstream"),
        ({"error": {"message": "no", "type": "invalid_request_error"}}, 400, "no"),
        ({"error": {"message": "no key", "code": "invalid_api_key"}}, 401, "no key"),
        ([{"error": {"message": "no", "code": 400}}], 400, "no"),
        ({"error": {"code": 400, "message": "Provider", "metadata": {"raw": "9x9 is too small"}}}, 400, "9x9 is too small"),
        ({"code": 400, "msg": "picture unsupported"}, 400, "picture unsupported"),
        ({"object": "error", "message": "The model does not exist.", "code": 404}, 404, "does not exist"),
        ({"choices": [{"error": {"code": 503, "message": "died"}, "finish_reason": "error"}]}, 503, "died"),
    ],
)
def test_an_error_in_a_response_with_200_counts_as_its_code(answer: Any, status: int, words: str) -> None:
    with pytest.raises(ErrorResponse, match=words) as fault:
        parsed(answer)
    assert fault.value.status == status


@pytest.mark.parametrize("body", [b"", b'{"choices": [{"mess'])
def test_what_was_cut_off_may_pass(body: bytes) -> None:
    with pytest.raises(UnusableResponse) as fault:
        parse_response(body)
    assert not isinstance(fault.value, OddResponse)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": "gone"}', "gone"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"errors": [{"message": "bad picture"}]}', "bad picture"),
        (b'{"error_code": 18, "error_msg": "qps"}', "qps"),
        (b'{"choices": null, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}', "insufficient"),
        (b"<html><head><style>p {color: red}</style></head><body>Please log in</body></html>", "not JSON: Please log in"),
        (b'data: {"error": {"message": "quota gone"}}', "quota gone"),
        (b"[]", "not a JSON object"),
        (b"{}", "`choices` is missing or empty"),
        (b'{"choices": [1]}', "not an object"),
        (b'{"choices": [1, 2]}', "2 choices"),
    ],
)
def test_a_servers_own_way_to_answer_is_named_with_its_words(body: bytes, words: str) -> None:
    with pytest.raises(OddResponse) as fault:
        parse_response(body)
    assert words in str(fault.value)


def test_an_error_is_one_line_without_control_characters() -> None:
    assert error_message(400, b'{"error": {"message": "a\\u001b[31m\\u0000b\\nc"}}') == "400: a [31m b c"


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


@pytest.mark.parametrize("fault", ["flagged", "no_usage"])
@pytest.mark.parametrize("place", [0, 3])
def test_what_one_record_is_refused_for_costs_few_requests(fault: str, place: int, tmp_path: Path) -> None:
    item = {"image": "a.png", "question": "?", "answer": "1", "caption_count": 1}
    captions = ["x", "x", "x"]
    captions.insert(place, "FLAG")
    rows = [{**item, "id": f"q{n}", "caption_id": f"q{n}/c0", "caption": said} for n, said in enumerate(captions)]
    write_lines(tmp_path / "caps.jsonl", rows)
    with ChatServer(poison="FLAG", poisonous=fault) as server:
        options = ["--llm", "m", "--base-url", server.url, "-n", "1", "--concurrency", "1"]
        done = sophia("reason", "caps.jsonl", *options, cwd=tmp_path, code=3)
    records = records_of(done.stdout)
    assert len(records) == 4 and [record["id"] for record in records if "error" in record] == [f"q{place}"]
    assert server.arrived <= 6


def test_a_server_without_tls_ends_the_step_at_once(tmp_path: Path) -> None:
    row = {"id": "a", "caption_id": "a/c0", "caption_count": 1, "caption": "x", "question": "?", "answer": "1"}
    write_lines(tmp_path / "caps.jsonl", [row])
    with ChatServer() as server:
        address = server.url.replace("http://", "https://")
        done = sophia("reason", "caps.jsonl", "--llm", "m", "--base-url", address, "-n", "1", cwd=tmp_path, code=1)
    assert "use http:// instead of https://" in done.stderr.decode().splitlines()[-1]

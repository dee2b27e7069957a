"""A model that judges answers (`--judge`) beside the rules, for the trajectories of `grade` and the responses of `eval`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sophia_cli.inference.backend_options import BackendOptions, LazyBackend
from sophia_cli.inference.sampler import complete_in_order
from sophia_cli.inference.types import Completion, Failure, Job, Request, SamplingParams
from sophia_cli.judge import prompts_and_parsing
from sophia_cli.prompts import load_prompt
from sophia_cli.records import Record, has_failed, sample_seed, where_of
from sophia_cli.verifier.types import REWARDS, VerifyFunction


@dataclass(frozen=True)
class AnswerJudge:
    """The judge: its backend, prompts and sampling.

    Attributes:
        prompt: About a single answer.
        parts_prompt: About an answer of several parts.
        extract_prompt: About the final answer of a response.
    """

    backend: LazyBackend
    name: str
    prompt: str
    sampling: SamplingParams
    seed: int
    parts_prompt: str = ""
    extract_prompt: str = ""

    def make_question(self, record: Mapping[str, Any], extracted: str | None) -> str:
        """Returns the question about a record's answer, as the rules extracted it; None: they found none."""
        return prompts_and_parsing.judge_question(
            record, extracted, self.parts_prompt if is_multi_part(record) else self.prompt
        )


def make_judge(
    name: str, everything: bool, seed: int, backend_options: BackendOptions, prompt: str = "judge"
) -> tuple[AnswerJudge, dict[str, Any]]:
    """Returns the judge, and the settings that identify its records.

    Args:
        name: The model.
        everything: It is asked about more than the rules cannot decide.
        seed: The run's seed.
        backend_options: Where it runs.
        prompt: The name of its prompt.
    """
    model = backend_options.resolve_model(name)
    prompt, parts_prompt, extract_prompt = (
        load_prompt(each, model.prompt_style) for each in (prompt, "judge_steps", "judge_extract")
    )
    sampling = SamplingParams(temperature=0.0).with_defaults(model, "judge", prompts_and_parsing.MAX_JUDGE_TOKENS)
    settings = {
        "judge": model.identity,
        "judge_prompt": prompt,
        "judge_parts_prompt": parts_prompt,
        "judge_all": everything,
        "judge_sampling": sampling.manifest_settings(),
    }
    return AnswerJudge(
        backend_options.make_backend(model), name, prompt, sampling, seed, parts_prompt, extract_prompt
    ), settings


def is_multi_part(record: Mapping[str, Any]) -> bool:
    """Tells whether the answer has several parts, of which a judge counts the correct ones."""
    return record.get("in_parts") is True


def _parts_verdict(parts: tuple[int, int] | None) -> str:
    """Returns `correct` if all parts are."""
    return "ungradable" if parts is None else "correct" if parts[0] == parts[1] else "wrong"


def apply_judge(
    records: Iterable[Record], judge: AnswerJudge, asks: Callable[[Record], bool], rules: VerifyFunction | None = None
) -> Iterator[Record]:
    """Yields the records in order; those that the judge is asked about have both verdicts.

    The judge's verdict counts if it gives one, else the rules'. Equal questions, golds and answers are asked once.

    Args:
        records: The records.
        judge: The judge.
        asks: Whether the judge is asked about a record; never about failures.
        rules: Where the rules found no final answer and the judge is not asked about the record, it extracts the
            answer, and the rules grade that. None: it does not extract.
    """

    def job(record: Record) -> Job | None:
        if has_failed(record) or not (record["extracted"] or prompts_and_parsing.final_text(record)):
            return None  # there is no answer to judge
        if asks(record):
            text = judge.make_question(record, record["extracted"])
        elif rules and record["verdict"] == "no_answer":
            text = prompts_and_parsing.extraction_question(record, judge.extract_prompt)
        else:
            return None
        request = Request([{"role": "user", "content": text}], judge.sampling, sample_seed(judge.seed, text, 0))
        return Job(record, {}, request)

    def finish(record: Record, outcome: Completion | Failure | None) -> Record:
        if outcome is None:
            return record
        if isinstance(outcome, Failure):
            fields = _judge_failure(outcome)
        elif rules and not asks(record):
            fields = _extracted_record(record, outcome.text, judge, rules)
        else:
            fields = _judged_record(record, outcome.text, judge)
        return Record({**record, **fields}, where_of(record))

    return complete_in_order(records, job, judge.backend, finish)


def _judge_failure(outcome: Failure) -> dict[str, Any]:
    said = f"the judge failed: {outcome.error}"
    return {"verdict": "error", "reward": None, "verified_by": "judge", "error": said}


def _judged_record(record: Record, said: str, judge: AnswerJudge) -> dict[str, Any]:
    """Adds the judge's verdict beside the rules' verdict."""
    parts = prompts_and_parsing.parse_parts(said) if is_multi_part(record) else None
    verdict = _parts_verdict(parts) if is_multi_part(record) else prompts_and_parsing.parse_verdict(said)
    fields = {"rules_verdict": record["verdict"], "judge_verdict": verdict, "judge_model": judge.name}
    if parts:
        fields |= {"judge_parts_right": parts[0], "judge_parts": parts[1]}
    if REWARDS[verdict] is not None:
        fields |= {"verdict": verdict, "verified_by": "judge", "reward": REWARDS[verdict]}
    return fields


def _extracted_record(record: Record, said: str, judge: AnswerJudge, rules: VerifyFunction) -> dict[str, Any]:
    """Adds the rules' verdict on the answer that the judge extracted; none where it found none."""
    answer = prompts_and_parsing.parse_answer(said)
    if answer is None:
        return {}
    verdict = rules(answer if "\\boxed" in answer else f"\\boxed{{{answer}}}", record)
    if verdict.extracted is None:
        return {}
    return {
        "rules_verdict": record["verdict"],
        "extracted": verdict.extracted,
        "extracted_by": judge.name,
        "verdict": verdict.verdict,
        "verified_by": verdict.verified_by,
        "reward": verdict.reward,
    }

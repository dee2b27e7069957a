"""The rule scorers of VLMEvalKit and lmms-eval; `harnesses.py` runs this script in their environment.

Reads rows and answers as JSON lines and writes each scorer's verdict: true, false, or null where a model or chance
would decide. The answer has the form that the scorer's prompts ask for; where a model would extract it first, it is
what a perfect extractor returns. Modules that the scorers import and do not need here (servers, plotting, torch) are
empty stubs.
"""

import ast
import contextlib
import importlib
import json
import random
import sys
import sysconfig
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

NOTHING = "I cannot tell."
"""The response of a model without an answer."""
LETTERS = "ABCDEFGHIJ"
PACKAGES = "vlmeval vlmeval.dataset vlmeval.dataset.utils vlmeval.utils lmms_eval lmms_eval.tasks"
"""Packages whose start-up code is skipped: it imports every model and data set."""
STUBS = "vlmeval.smp vlmeval.dataset.image_base lmms_eval.llm_judge lmms_eval.verifiers openai"
"""Modules that the scorers import for other purposes: files, prompts, servers."""


def nothing(*given: Any, **named: Any) -> None:
    """Accepts any arguments and does nothing."""


class Stub(ModuleType):
    """A module in which every name is a class that accepts anything."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": nothing, "__getattr__": lambda self, name: nothing})


class Stubs(MetaPathFinder, Loader):
    """Import finder that returns a stub for the modules in STUBS and their submodules."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        stubbed = any(name == stub or name.startswith(f"{stub}.") for stub in STUBS.split())
        return ModuleSpec(name, self, is_package=True) if stubbed else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Stub(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def prepare() -> None:
    """Makes the scorers importable without the modules that they do not need here."""
    site = Path(sysconfig.get_path("purelib"))
    for name in PACKAGES.split():
        package = ModuleType(name)
        package.__path__ = [str(site.joinpath(*name.split(".")))]
        sys.modules[name] = package
    # latex2sympy2 itself needs an antlr4 that SymPy's parser does not load with; VLMEvalKit takes its successor, too
    sys.modules["latex2sympy2"] = importlib.import_module("latex2sympy2_extended")
    sys.meta_path.insert(0, Stubs())
    utils: Any = sys.modules["vlmeval.utils"]
    utils.can_infer = importlib.import_module("vlmeval.utils.matching_util").can_infer
    utils.track_progress_rich = sys.modules["vlmeval.dataset.utils"].build_judge = None  # type: ignore[attr-defined]


def module(name: str) -> Any:
    return importlib.import_module(name)


def options_of(row: dict[str, Any]) -> dict[str, str]:
    options = ast.literal_eval(row["options"])
    return dict(zip(LETTERS, options, strict=False))


class VLMEvalKit:
    """The scorers of VLMEvalKit (ms-vlmeval on PyPI)."""

    def mmmu(self, row: dict[str, Any], answer: str) -> bool | None:
        """Option letters are inferred from the response; an open question becomes options: the gold and another."""
        choices = options_of(row) or {"A": str(row["answer"]), "B": "Other Answers"}
        gold = row["answer"] if options_of(row) else "A"
        inferred = module("vlmeval.utils").can_infer(answer or NOTHING, choices)
        return bool(inferred == gold) if inferred else None  # a model is asked then

    mmmu_pro = mmmu

    def mathvista(self, row: dict[str, Any], answer: str) -> bool | None:
        choices = row["choices"] or []
        given = {**row, "choices": str(choices), "prediction": answer or NOTHING}
        if choices:
            given["answer_option"] = LETTERS[choices.index(row["answer"])]
        return self._extracted(module("vlmeval.dataset.utils.mathvista").post_check, given, answer)

    def mathvision(self, row: dict[str, Any], answer: str) -> bool | None:
        given = {**row, "choices": str(row["options"]), "prediction": answer or NOTHING}
        return self._extracted(module("vlmeval.dataset.utils.mathv").post_check, given, answer)

    def _extracted(self, check: Any, given: dict[str, Any], answer: str) -> bool | None:
        """As in its evaluation: what the rules find in the response, otherwise what a model extracts (for options, a
        letter).
        """
        found = check(given, prefetch=True)
        if not found and given["choices"] != "[]":
            return None
        return bool(check({**given, "res": found or answer}, prefetch=False))

    def mathverse(self, row: dict[str, Any], answer: str) -> bool | None:
        return module("vlmeval.dataset.utils.mathverse").post_check_score({**row, "extract": answer}) or None

    def dynamath(self, row: dict[str, Any], answer: str) -> bool | None:
        class Nobody:
            """The model that extracts where the short answer is none: unlike a real one it says what was said."""

            def generate(self, prompt: str) -> str:
                return answer

        prediction = json.dumps({"solution": "So it is.", "short answer": answer}, ensure_ascii=False)
        given = {**row, "answer": row["ground_truth"], "prediction": prediction}
        return bool(module("vlmeval.dataset.dynamath").DynaMath_auxeval(Nobody(), given)["correct"])

    def olympiadbench(self, row: dict[str, Any], answer: str) -> bool:
        """As in its evaluation without a judge."""
        scorer = module("vlmeval.dataset.utils.olympiadbench")
        said = scorer.extract_answer(row["language"] == "Chinese", said_last(row, answer))
        gold = str(row["final_answer"])[2:-2].replace("\\\\", "\\")
        if "Tuple" in row["answer_type"] or row["error"] is None:
            return bool(scorer.MathJudger().judge(said, gold))
        return bool(scorer.MathJudger().judge(said, gold, float(row["error"])))


class LmmsEval:
    """The scorers of lmms-eval (PyPI)."""

    def mmmu(self, row: dict[str, Any], answer: str) -> bool | None:
        scorer = module("lmms_eval.tasks.mmmu.utils")
        with no_chance() as chance:
            parsed = scorer.mmmu_process_results(row, [answer or NOTHING])["mmmu_acc"]
        if chance:
            return None
        gold = row["answer"]
        if gold.startswith("[") and row["question_type"] == "open":
            parsed["answer"] = ast.literal_eval(gold)  # as the official data set's loader hands it over
        return bool(scorer.evaluate_mmmu([parsed])[1]["acc"])

    def mmmu_pro(self, row: dict[str, Any], answer: str) -> bool:
        scorer = module("lmms_eval.tasks.mmmu_pro.utils")
        parsed = scorer.mmmu_pro_process_results(row, [answer or NOTHING])["mmmu_acc"]
        return bool(scorer.evaluate_mmmu([parsed])[1]["acc"])

    def mathvista(self, row: dict[str, Any], answer: str) -> bool:
        scorer = module("lmms_eval.tasks.mathvista.mathvista_evals").MathVistaEvaluator()
        precision = None if row["precision"] is None else int(row["precision"])
        kinds = row["question_type"], row["answer_type"], precision
        said = scorer.normalize_extracted_answer(answer, row["choices"], *kinds)
        return bool(scorer.safe_equal(said, row["answer"]))

    def mathvision(self, row: dict[str, Any], answer: str) -> bool:
        response = f"So it is \\boxed{{{answer}}}" if answer else NOTHING
        found = module("lmms_eval.tasks.mathvision.utils").mathvision_process_results(row, [response])
        return bool(found["mathvision_standard_eval"]["scores"][0])

    def mathverse(self, row: dict[str, Any], answer: str) -> bool | None:
        return True if row["answer"] == answer else None  # a model judges all; equal texts leave it no doubt

    def dynamath(self, row: dict[str, Any], answer: str) -> bool:
        response = f"<think>So it is.</think><answer>{answer}</answer>"
        score = module("lmms_eval.tasks._task_utils.reasoning_utils").compute_score
        found = score("dynamath", response, row["ground_truth"], extra_info={"question": row["question"]})
        return bool(found["acc_score"])

    def olympiadbench(self, row: dict[str, Any], answer: str) -> bool:
        scorer = module("lmms_eval.tasks.olympiadbench.en_utils")
        if row["language"] == "Chinese":
            scorer = module("lmms_eval.tasks.olympiadbench.cn_utils")
        given = {**row, "source": "OE_MM_maths_en_COMP"}
        return bool(scorer.olympiadbench_process_results(given, [said_last(row, answer)])["exact_match"])


def said_last(row: dict[str, Any], answer: str) -> str:
    """The final sentence that OlympiadBench asks models for."""
    if not answer:
        return NOTHING
    sentence = "所以最终答案是%s。" if row["language"] == "Chinese" else "So the final answer is %s."
    return sentence % f"\\boxed{{{answer}}}"


@contextlib.contextmanager
def no_chance() -> Any:
    """Records whether a scorer chose at random for an answer that it could not read."""
    drawn: list[bool] = []
    usual = random.choice

    def choice(options: Any) -> Any:
        drawn.append(True)
        return usual(options)

    random.choice = choice
    try:
        yield drawn
    finally:
        random.choice = usual


PEERS = {"vlmevalkit": VLMEvalKit, "lmms-eval": LmmsEval}


def said(peer: Any, case: dict[str, Any]) -> bool | str | None:
    """Returns the scorer's verdict, or the name of the exception it raised (the harness counts it as wrong or skips it)."""
    try:
        verdict: bool | None = getattr(peer, case["benchmark"].replace("-", "_"))(case["row"], case["answer"])
    except Exception as error:  # noqa: BLE001  (whatever a scorer breaks with is what there is to tell)
        return type(error).__name__
    return verdict


def main() -> None:
    out = sys.stdout
    sys.stdout = sys.stderr  # some of them print
    prepare()
    peers = {name: kind() for name, kind in PEERS.items()}
    for line in sys.stdin:
        case = json.loads(line)
        out.write(json.dumps({name: said(peer, case) for name, peer in peers.items()}) + "\n")
        out.flush()


if __name__ == "__main__":
    main()

"""What Eq. 5 and 6 need of a record, read from its line without the texts, and the rule that it is to serve."""

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from sophia_cli.errors import UsageError
from sophia_cli.records import STEP_FIELDS, Record, has_failed, need_count, need_number, need_text

COUNT_LIMIT = 1 << 31
"""Counts are below it."""
GRADED_HINT = "`sophia grade` writes it"
Name = Annotated[str, msgspec.Meta(min_length=1)]
Count = Annotated[int, msgspec.Meta(gt=0, lt=COUNT_LIMIT)]


class Trajectory(msgspec.Struct, frozen=True, gc=False):
    """What Eq. 5 and 6 need of one graded record; msgspec reads it from a line without reading the rest.

    `reward` is None where there is no evidence. `planned` is N, the number of trajectories that its caption was to get, and
    `captions` K, where the record says. `stop_alpha` is the α that its caption can no longer pass, where sampling was
    stopped early; `stop_length`: it was given up, perhaps, as it has none shorter than another. `error`: a step failed.
    The last three are of a record that was propagated before.
    """

    name: Name = msgspec.field(name="trajectory_id")
    item: Name = msgspec.field(name="id")
    caption: Name = msgspec.field(name="caption_id")
    reward: float | None
    tokens: Count = msgspec.field(name="trajectory_tokens")
    planned: Count | msgspec.UnsetType = msgspec.field(name="trajectory_count", default=msgspec.UNSET)
    captions: Count | msgspec.UnsetType = msgspec.field(name="caption_count", default=msgspec.UNSET)
    reasoner: str = msgspec.field(name="reason_model", default="")
    mentions_caption: bool = False
    stop_alpha: float | None = None
    stop_length: float | None = None
    error: None | Literal["failed"] = None
    caption_reward: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    selected: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    weight: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    @property
    def is_propagated(self) -> bool:
        """Whether the record carries what `propagate` writes."""
        return not (self.caption_reward is self.selected is self.weight is msgspec.UNSET)


@dataclass(frozen=True)
class SelectionRule:
    """How trajectories are chosen. The defaults are the paper's: Keep-1, the shortest, α = 0.75.

    select: shortest, random (drawn by `seed`), or all that qualify.
    min_graded: instead of (right ones)/N > α ask for a mean over α and so many graded ones.
    """

    alpha: float = 0.75
    keep: int = 1
    select: str = "shortest"
    caption_reward: bool = True
    correctness: bool = True
    min_graded: int | None = None
    drop_leaks: bool = False
    seed: int = 0


def decode_checked(record: Record) -> Trajectory:
    """The facts of a graded record. Raises RecordError that names the field."""
    failure = has_failed(record)  # no evidence, whatever it says
    return Trajectory(
        name=need_text(record, "trajectory_id", GRADED_HINT),
        item=need_text(record, "id", "the source must give it"),
        caption=need_text(record, "caption_id", GRADED_HINT),
        reward=None if failure else need_number(record, "reward"),
        tokens=0 if failure else min(need_count(record, "trajectory_tokens"), COUNT_LIMIT - 1),
        planned=min(need_count(record, "trajectory_count"), COUNT_LIMIT - 1)
        if "trajectory_count" in record
        else msgspec.UNSET,
        captions=count
        if isinstance(count := record.get("caption_count"), int) and 0 < count < COUNT_LIMIT
        else msgspec.UNSET,
        reasoner=str(record.get("reason_model", "")),
        mentions_caption=record.get("mentions_caption") is True,
        stop_alpha=need_number(record, "stop_alpha") if record.get("stop_alpha") is not None else None,
        stop_length=None if record.get("stop_length") is None else 0.0,
        error="failed" if failure else None,
        weight=msgspec.Raw(b"null") if any(field in record for field in STEP_FIELDS["propagate"]) else msgspec.UNSET,
    )


_DECODE = msgspec.json.Decoder(Trajectory).decode


def decode_fast(line: bytes) -> Trajectory | None:
    """The facts of a line that are plainly sound; None for one that is to be read with care (`read_trajectory`)."""
    try:
        facts = _DECODE(line)
        if facts.error is None and (line.isascii() or line.decode()):
            return facts
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    return None


def check_early_stop(facts: Trajectory, rule: SelectionRule) -> None:
    """Raises UsageError where a caption was given up for an α that this selection does not ask for."""
    name, given_up = facts.name, facts.stop_alpha
    if facts.stop_length is not None and rule != SelectionRule(alpha=given_up or 0.0, seed=rule.seed):
        raise UsageError(
            f"{name}: was sampled with --stop-early --bound-length --alpha {given_up}, which serves just that "
            "alpha with --keep 1 and no other rule; ask for that, or sample again without --bound-length"
        )
    if given_up is None or (rule.caption_reward and rule.alpha >= given_up):
        return
    wanted = f"--alpha {rule.alpha}" if rule.caption_reward else "--no-caption-reward"
    raise UsageError(
        f"{name}: was sampled with --stop-early --alpha {given_up}, which {wanted} cannot be served from; "
        "sample again without --stop-early, or ask for no less"
    )

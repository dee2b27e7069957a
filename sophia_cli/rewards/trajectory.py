"""The fields of a record that Eq. 5 and Eq. 6 need, decoded without its texts, and the selection rule."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from sophia_cli.errors import UsageError
from sophia_cli.records import STEP_FIELDS, Record, has_failed, need_count, need_number, need_text

COUNT_LIMIT = 1 << 31
"""All counts are below it."""
ID_HINT = "`sophia reason` writes it"
Name = Annotated[str, msgspec.Meta(min_length=1)]
Count = Annotated[int, msgspec.Meta(gt=0, lt=COUNT_LIMIT)]


class Trajectory(msgspec.Struct, frozen=True, gc=False):
    """One graded record, as Eq. 5 and Eq. 6 need it. msgspec decodes it from a line and skips the other fields.

    Attributes:
        reward: R(y); None where there is no evidence.
        planned: N, the number of trajectories that its caption was to get, if the record says.
        captions: K, the number of captions of its item, if the record says.
        stop_alpha: The α of early stop, where it was sampled with it.
        stop_length: It was cut at this length, and its caption given up, which has no correct trajectory as short.
        error: Set when a step failed.
        caption_reward, selected, weight: Present when the record was propagated before.
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


def passes_alpha(right: Any, planned: Any, alpha: float) -> Any:
    """Tells whether R(c) > α (Eq. 6), where `right` of the `planned` trajectories of a caption are right.

    The one definition of it, for numbers and for arrays. What is missing or was not graded counts as not right.
    """
    return right / planned > alpha


@dataclass(frozen=True)
class SelectionRule:
    """How trajectories are selected. The defaults are the paper's: Keep-1, the shortest, α = 0.75.

    Attributes:
        alpha: α of Eq. 6.
        keep: Trajectories kept per item (Keep-N).
        select: `shortest`, `random` (drawn by `seed`), or `all` that qualify.
        caption_reward: Apply the caption rule, R(c) > α.
        correctness: Keep correct trajectories only.
        min_graded: Instead of (correct)/N > α, require a mean over α and this many graded trajectories.
        drop_leaks: Leave out trajectories that mention a caption.
        seed: Seed of `random`.
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
    """Decodes a graded record field by field.

    Raises:
        RecordError: a field is bad; the message names it.
    """
    failure = has_failed(record)  # no evidence, whatever its other fields say
    return Trajectory(
        name=need_text(record, "trajectory_id", ID_HINT),
        item=need_text(record, "id", "the source must give it"),
        caption=need_text(record, "caption_id", ID_HINT),
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
    """Decodes a line with msgspec. Returns None for a line that needs `decode_checked`."""
    try:
        facts = _DECODE(line)
        if facts.error is None and (line.isascii() or line.decode()):
            return facts
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    return None


def check_early_stop(facts: Trajectory, rule: SelectionRule) -> None:
    """Checks that a record of an early-stopped run serves this rule.

    Raises:
        UsageError: captions were given up for an α that this selection does not use.
    """
    name, alpha = facts.name, facts.stop_alpha
    if facts.stop_length is not None and rule != SelectionRule(alpha=alpha or 0.0, seed=rule.seed):
        raise UsageError(
            f"{name}: was sampled with --stop-early --bound-length --alpha {alpha}, which serves just that "
            "alpha with --keep 1 and no other rule; use those, or sample again without --bound-length"
        )
    if alpha is None or (rule.caption_reward and rule.alpha >= alpha):
        return
    wanted = f"--alpha {rule.alpha}" if rule.caption_reward else "--no-caption-reward"
    raise UsageError(
        f"{name}: was sampled with --stop-early --alpha {alpha}, which cannot serve {wanted}; "
        f"sample again without --stop-early{', or use a larger alpha' if rule.caption_reward else ''}"
    )

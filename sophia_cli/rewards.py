"""Rewards of captions and the choice of trajectories: Eq. 5 and Eq. 6, as pure functions of small facts.

The texts of the records are not needed here, only a few facts of each, a `Trajectory`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sophia_cli.errors import InputError, UsageError
from sophia_cli.records import Record, has_failed, need_count, need_number, need_text, where_of
from sophia_cli.streams import to_line

GRADED = "`sophia grade` writes it"

Caption = tuple[str, str]
"""A caption and the reasoner that thought over it: (caption_id, reason_model)."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What Eq. 5 and 6 need of one graded trajectory. `reward` is None where there is no evidence.

    `planned` is N, the number of trajectories that its caption was to get; None where the record does not say. `stop_alpha`
    is the α that its caption can no longer pass, where sampling was stopped early. `bounded`: it was given up, perhaps, as
    it has nothing shorter than another caption.
    """

    name: str
    item: str
    caption: Caption
    reward: float | None
    tokens: int
    planned: int | None = None
    mentions_caption: bool = False
    stop_alpha: float | None = None
    bounded: bool = False


@dataclass(frozen=True)
class Rule:
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


def read_trajectory(record: Record) -> Trajectory:
    """The facts of a graded record. Raises RecordError that names the field."""
    failure = has_failed(record)  # no evidence, whatever it says
    return Trajectory(
        name=need_text(record, "trajectory_id", GRADED),
        item=need_text(record, "id", "the source must give it"),
        caption=(need_text(record, "caption_id", GRADED), str(record.get("reason_model", ""))),
        reward=None if failure else need_number(record, "reward"),
        tokens=0 if failure else need_count(record, "trajectory_tokens"),
        planned=need_count(record, "trajectory_count") if "trajectory_count" in record else None,
        mentions_caption=record.get("mentions_caption") is True,
        stop_alpha=need_number(record, "stop_alpha") if record.get("stop_alpha") is not None else None,
        bounded=record.get("stop_length") is not None,
    )


def refuse_what_was_stopped(trajectory: Trajectory, rule: Rule) -> None:
    """Raises UsageError where a caption was given up for an α that this selection does not ask for."""
    given_up = trajectory.stop_alpha
    if trajectory.bounded and rule != Rule(alpha=given_up or 0.0, seed=rule.seed):
        raise UsageError(
            f"{trajectory.name}: was sampled with --stop-early --shortest --alpha {given_up}, which serves just that "
            "alpha with --keep 1 and no other rule; ask for that, or sample again without --shortest"
        )
    if given_up is None or (rule.caption_reward and rule.alpha >= given_up):
        return
    wanted = f"--alpha {rule.alpha}" if rule.caption_reward else "--no-caption-reward"
    raise UsageError(
        f"{trajectory.name}: was sampled with --stop-early --alpha {given_up}, which {wanted} cannot be served from; "
        "sample again without --stop-early, or ask for no less"
    )


@dataclass
class Ledger:
    """The trajectories of a data set, each counted once however often its record comes."""

    trajectories: list[Trajectory] = field(default_factory=list)
    seen: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def add(self, record: Record) -> Trajectory:
        """Notes a graded record. Raises RecordError for a bad field, InputError for one id with two contents."""
        trajectory = read_trajectory(record)
        content = hashlib.blake2b(to_line(record), digest_size=8).digest()
        first = self.seen.get(trajectory.name)
        if first is None:
            self.seen[trajectory.name] = (where_of(record), content)
            self.trajectories.append(trajectory)
        elif first[1] != content:
            fault = f"trajectory_id {trajectory.name!r} stands at {first[0]} with other content"
            raise InputError(f"{where_of(record)}: {fault}; drop one of them")
        return trajectory


def caption_rewards(trajectories: Iterable[Trajectory]) -> dict[Caption, float | None]:
    """R(c) of Eq. 5: the mean of R(y) over the graded trajectories of each caption.

    None when none was graded, and where sampling was stopped early: the mean of those is not Eq. 5's.
    """
    graded: dict[Caption, list[float]] = defaultdict(list)
    stopped = set()
    for trajectory in trajectories:
        rewards = graded[trajectory.caption]
        if trajectory.reward is not None:
            rewards.append(trajectory.reward)
        if trajectory.stop_alpha is not None:
            stopped.add(trajectory.caption)
    return {
        caption: sum(rewards) / len(rewards) if rewards and caption not in stopped else None
        for caption, rewards in graded.items()
    }


def eligible_captions(trajectories: Sequence[Trajectory], rule: Rule) -> set[Caption]:
    """The captions with R(c) > α, strictly. What could not be graded counts against its caption (contract.md)."""
    members: dict[Caption, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        members[trajectory.caption].append(trajectory)
    return {caption for caption, group in members.items() if _is_eligible(group, rule)}


def _is_eligible(group: list[Trajectory], rule: Rule) -> bool:
    if any(member.stop_alpha is not None for member in group):
        _refuse_two_runs(group)
        return False
    graded = [member.reward for member in group if member.reward is not None]
    right = sum(graded)
    if rule.min_graded is not None:
        return len(graded) >= max(rule.min_graded, 1) and right / len(graded) > rule.alpha
    planned = max((member.planned for member in group if member.planned is not None), default=len(group))
    return right / max(planned, len(group)) > rule.alpha


def _refuse_two_runs(group: list[Trajectory]) -> None:
    """Raises InputError where a caption was given up in one run of a reasoner, and another (`--tag`) adds to its mean."""
    runs = sorted({member.name.rpartition("t")[0] for member in group})
    if len(runs) > 1:
        raise InputError(
            f"{group[0].name}: its caption was given up early in one of {len(runs)} runs of the same reasoner ({runs[0]}… "
            f"and {runs[1]}…), so their common mean is not known; propagate them apart, or sample without --stop-early"
        )


def select(trajectories: Sequence[Trajectory], rule: Rule) -> set[str]:
    """The names of the kept trajectories (Eq. 6): at most `keep` an item; ties in length go to the smaller name."""
    eligible = eligible_captions(trajectories, rule) if rule.caption_reward else None
    qualifying: dict[str, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        if qualifies(trajectory, rule) and (eligible is None or trajectory.caption in eligible):
            qualifying[trajectory.item].append(trajectory)
    kept: set[str] = set()
    for group in qualifying.values():
        if rule.select == "shortest":
            group.sort(key=lambda member: (member.tokens, member.name))
        elif rule.select == "random":
            group.sort(key=lambda member: _lot(rule.seed, member.name))
        chosen = group if rule.select == "all" else group[: rule.keep]
        kept.update(member.name for member in chosen)
    return kept


def qualifies(trajectory: Trajectory, rule: Rule) -> bool:
    """Whether a trajectory may be kept as far as it alone decides: R(y) = 1, or any graded one without that rule."""
    if trajectory.reward is None or (rule.drop_leaks and trajectory.mentions_caption):
        return False
    return trajectory.reward == 1.0 or not rule.correctness


def _lot(seed: int, name: str) -> bytes:
    """A draw that depends on the seed and the trajectory alone, so that order and shards change nothing."""
    return hashlib.sha256(f"{seed}\x00{name}".encode("utf-8", "surrogatepass")).digest()

"""The page of a prune run: what may be dropped, what that costs and whom, and which labels look wrong."""

from __future__ import annotations

import json
from collections.abc import Callable

from nncift_core.config_toml import to_toml
from nncift_core.errors import UserError
from nncift_core.report import prune_curves, prune_noise, prune_scores, values
from nncift_core.report import prune_queries as queries
from nncift_core.report.blocks import Code, Items, Pre, Section, Sentence, Value, say, table, value
from nncift_core.report.notes import FLAGS, NOTES
from nncift_core.report.queries import FACTS, LINEAGE, Data, Reader
from nncift_core.report.record import COMMAND, CONFIG
from nncift_core.report.template import fill
from nncift_core.store.workspace import Workspace
from nncift_core.text import clip, visible

PRUNE = "prune"


def render_prune(ws: Workspace, run_id: str) -> str:
    """The page of a prune run as one HTML file that needs nothing else, read from the run's views.

    The same for the same results: it carries no time of its own making. Raises UserError for a run that is
    not there, has no result or is no prune run.
    """
    reader = Reader(ws, run_id)
    sections = [make(reader) for make in SECTIONS]
    return fill(ws, run_id, sections, title=f"nncift prune, run {run_id}", heading="Which rows can go")


def head(r: Reader) -> Section:
    """The recommendation or its refusal, and what it rests on."""
    facts, attempt = r.ask(FACTS), r.ask(queries.attempt(r.run_id))
    if not facts.rows:
        raise UserError(f"run {r.run_id} has no result yet", mend="Let it finish: run its config again.")
    if not facts.where("fact", "recommendation_verdict").rows:
        raise UserError(f"run {r.run_id} is no prune run", mend="Name a run of `nncift prune`.")
    section = Section("outcome", "Outcome")
    section.blocks = [
        say(
            "Run {}, started {}: {} labelled rows of {} classes. With all of them the classifier reaches an "
            "accuracy of {} on held-out rows.",
            Code(r.run_id), value(attempt, "started"), _number(facts, "rows"), _number(facts, "classes"),
            value(facts.where("fact", "accuracy_all"), "value", "loss"),
        ),
        Items((_recommendation(facts), *_subset(facts), *_claims(r), *_notes(facts))),
        _model(facts),
        table(
            r.ask(queries.DATASETS), "role", "data set", "rows:int", "classes:int", "groups:int",
            folded="data sets read",
        ),
    ]  # fmt: skip
    return section


def _number(facts: Data, name: str) -> Value:
    return value(facts.where("fact", name), "value", "int")


def _recommendation(facts: Data) -> Sentence:
    """The recommendation with its verdict; anything but "prune" is told as a refusal."""
    verdict = facts.where("fact", "recommendation_verdict")
    text = value(facts.where("fact", "recommendation"), "text", "long")
    badge = value(verdict, "text")
    if verdict.first["text"] == PRUNE:
        return Sentence(say("{}.", text).parts, "good", badge)
    return Sentence(say("No pruning is recommended: {}.", text).parts, "bad", badge)


def _subset(facts: Data) -> list[Sentence]:
    rows, path = facts.where("fact", "subset_rows"), facts.where("fact", "subset")
    if not path.rows or not path.first["text"]:
        return []
    place = value(path, "text")
    if not rows.rows:
        return [say("The subset lies in {}, inside the workspace’s folder.", place)]
    count = value(rows, "value", "int")
    return [say("The subset of {} rows lies in {}, inside the workspace’s folder.", count, place)]


def _claims(r: Reader) -> list[Sentence]:
    found = r.ask(queries.CLAIMS)
    if not found.first["checked"]:
        return []
    return [
        say(
            "Claims of the paper checked on this data: {}; they hold in {} cases and fail in {}.",
            value(found, "checked", "int"), value(found, "hold", "int"), value(found, "fail", "int"),
        )
    ]  # fmt: skip


def _notes(facts: Data) -> list[Sentence]:
    """What a reader should doubt."""
    known = {row["fact"]: row["value"] for row in facts.rows}
    counted = [
        say("{} " + text + ".", value(facts.where("fact", fact), "value", "int"))
        for fact, text in NOTES.items()
        if known.get(fact)
    ]
    flags = [say(f"{text[0].upper()}{text[1:]}.") for fact, text in FLAGS.items() if known.get(fact)]
    labels = facts.where("fact", "labels_note")
    told = [say("{}.", value(labels, "text", "long"))] if labels.first.get("text") else []
    return counted + flags + told


def _model(facts: Data) -> Sentence:
    mode, head_, encoder = (facts.where("fact", name) for name in ("mode", "head", "encoder"))
    if mode.first.get("text") == "frozen":
        text = (
            "Classifiers are a head ({}) on embeddings of the encoder {}, which stays frozen: gradient "
            "scores are taken at the embedding and the head, and are named so."
        )
    else:
        text = "Classifiers are a head ({}) on the encoder {}, and both are trained."
    return say(text, value(head_, "text"), value(encoder, "text"))


def made(r: Reader) -> Section:
    """All that is needed to do it again."""
    section = Section("made", "How it was made")
    found, command = r.ask(queries.attempt(r.run_id)), r.ask(FACTS).where("fact", "command")
    if command.rows:
        section.blocks += [say("The command:"), Pre(visible(clip(command.first["text"], COMMAND)))]
    if found.rows:
        config, versions = (json.loads(found.first[name]) for name in ("config", "versions"))
        width = max((len(name) for name in versions), default=0)
        lines = "\n".join(f"{name:<{width}}  {version}" for name, version in sorted(versions.items()))
        section.blocks += [
            say("The config with every default, as TOML, and the versions of what could change a value:"),
            Pre(visible(clip(to_toml(config), CONFIG)), "config"),
            Pre(visible(lines), "versions"),
        ]
    section.blocks += [
        say("Files of the workspace by kind; {} names each with its parents.", Code("lineage")),
        table(r.ask(LINEAGE), "kind", "files:int", folded="files by kind"),
    ]
    return section


SECTIONS: tuple[Callable[[Reader], Section], ...] = (
    head,
    prune_curves.curves,
    prune_curves.harm,
    prune_noise.noise,
    prune_noise.suspects,
    prune_scores.scores,
    prune_scores.learned,
    prune_scores.findings,
    values.costs,
    made,
)

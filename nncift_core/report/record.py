"""The sections for who wants to check: warnings, other runs, how the run was made."""

from __future__ import annotations

import json
from typing import Any

from nncift_core.config_toml import to_toml
from nncift_core.errors import IntegrityError
from nncift_core.report import queries
from nncift_core.report.blocks import Code, Items, Pre, Section, Sentence, mood, say, table, value
from nncift_core.report.notes import FLAGS, NOTES
from nncift_core.report.queries import Reader
from nncift_core.report.trust import verdict_lines
from nncift_core.report.trust_queries import PARTS, VERDICT
from nncift_core.text import clip, visible

CONFIG, COMMAND = 20_000, 2_000


def warnings(r: Reader) -> Section:
    """What a reader should doubt."""
    facts = r.ask(queries.FACTS)
    known = {row["fact"]: row["value"] for row in facts.rows}
    found = [
        say("{} " + text + ".", value(facts.where("fact", fact), "value", "int"))
        for fact, text in NOTES.items()
        if known.get(fact)
    ]
    found += [say(f"{text[0].upper()}{text[1:]}.") for fact, text in FLAGS.items() if known.get(fact)]
    found += _weak_estimates(r) + _weak_gains(r)
    idle = r.ask(queries.IDLE)
    if idle.first["idle"]:
        text = "{} of the picks added nothing to the objective; a smaller subset covers as much."
        if known.get("rule") == "top-k":
            text = "{} of the picks have a score of 0 or below: by this function they do not help."
        found.append(say(text, value(idle, "idle", "int")))
    section = Section("warnings", "Warnings")
    section.blocks = [Items(tuple(found)) if found else say("None.")]
    return section


def _weak_estimates(r: Reader) -> list[Sentence]:
    """The verdict on the estimates unless they are trusted, and a line per part that earns no trust.

    Parts of refused estimates are left out: nothing was chosen by them.
    """
    level = r.ask(VERDICT).first.get("level")
    lines = [] if level in (None, "trusted") else verdict_lines(r)
    if level == "refused":
        return lines
    parts = r.ask(PARTS)
    for row in parts.rows:
        one = parts.where("quadrant", row["quadrant"])
        if mood(row["verdict"]) != "good":
            line = say("The estimates of {} by {}:", value(one, "quadrant"), value(one, "predictor"))
            lines.append(Sentence(line.parts, mood(row["verdict"]), value(one, "verdict")))
    return lines


def _weak_gains(r: Reader) -> list[Sentence]:
    """The head's comparison, when it is no clear win, and every rival that beats the subset."""
    found = r.ask(queries.COMPARISON)
    lines = []
    for row in found.rows:
        if mood(row["verdict"]) == "bad" or (row is found.first and mood(row["verdict"]) != "good"):
            one = found.where("rival", row["rival"]).where("measure", row["measure"])
            line = say("The selected rows against “{}” by {}:", value(one, "rival"), value(one, "measure"))
            lines.append(Sentence(line.parts, mood(row["verdict"]), value(one, "verdict")))
    return lines


def other_runs(r: Reader) -> Section:
    """Runs of the same workspace that valued rows of this pool."""
    section = Section("other-runs", "Other runs on this pool")
    try:
        found = r.ask_all(queries.other_runs(r.run_id))
    except IntegrityError as e:
        section.blocks = [say("The other runs could not be read: {}", Code(str(e)))]
        return section
    if not found.rows:
        section.blocks = [say("No other run of this workspace has valued rows of this pool.")]
        return section
    section.blocks = [
        say(
            "Another function or target wants another subset. Shared: how many of its picks are also picks "
            "of this run."
        ),
        table(found, "run", "function", "targets", "same pool rows:int", "chosen:int", "shared:int"),
    ]
    return section


def made(r: Reader) -> Section:
    """All that is needed to do it again, and where the files lie."""
    section = Section("made", "How it was made")
    attempt, facts = r.ask(queries.ATTEMPT), r.ask(queries.FACTS)
    command, subset = facts.where("fact", "command"), facts.where("fact", "subset")
    if command.rows:
        section.blocks += [say("The command:"), Pre(visible(clip(command.first["text"], COMMAND)))]
    if subset.rows:
        section.blocks.append(say("The subset, inside the workspace’s folder: {}.", value(subset, "text")))
    if attempt.rows:
        config, versions = (json.loads(attempt.first[name]) for name in ("config", "versions"))
        width = max((len(name) for name in versions), default=0)
        lines = "\n".join(f"{name:<{width}}  {version}" for name, version in sorted(versions.items()))
        section.blocks += [
            say("The config with every default, as TOML, and the versions of what could change a value:"),
            Pre(visible(clip(to_toml(_as_written(config)), CONFIG)), "config"),
            Pre(visible(lines), "versions"),
        ]
    section.blocks += [
        say("Files of the workspace by kind; {} names each with its parents.", Code("lineage")),
        table(r.ask(queries.LINEAGE), "kind", "files:int", folded="files by kind"),
    ]
    return section


def _as_written(config: dict[str, Any]) -> dict[str, Any]:
    """A config's dump as a person may write it: an evaluation without a model to train is refused, and the
    settings of functions that were not asked would mislead."""
    shown = {k: v for k, v in config.items() if k != "evaluation" or config.get("finetune") is not None}
    influence = config.get("influence", {})
    own = influence.get("function", "").replace("-", "_")
    kept = {k: v for k, v in influence.items() if k == own or not isinstance(v, dict)}
    return {**shown, **({"influence": kept} if kept else {})}

"""Builds the quickstart's pool and targets and the builtin language model's training corpus.

    python -m benchmarks.builtin_lm.prepare --data DIR

DIR holds instruct_pool.parquet and instruct_target_gsm8k.parquet (only their GSM8K rows are used),
clinc150.parquet, banking77.parquet and snli_small.parquet. Deterministic: every part draws from its own
seeded stream, so that changing one part leaves the others as they are.
"""

from __future__ import annotations

import argparse
import json
import random
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import zstandard

from benchmarks.builtin_lm.wording import Turn, chain, intent_turn, label_words, single, snli_turn, templated
from nncift_core.errors import UserError

SEED = 20240
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OUT_DATA = ROOT / "nncift_core" / "builtin" / "data"
CORPUS = HERE / "corpus.jsonl.zst"
OWN_ROWS = HERE / "own_rows.jsonl"
POOL_GSM8K, POOL_INTENT, POOL_TEMPLATED = 650, 400, 105
CORPUS_TEMPLATED = 1400
Row = dict[str, Any]


def stream(part: str) -> random.Random:
    """A random stream of its own for each part of the data."""
    return random.Random(f"{SEED}-{part}")


def normalise(text: str) -> str:
    """Text for comparing: NFKC, lower case, letters and digits only, single spaces."""
    text = unicodedata.normalize("NFKC", text).lower()
    return " ".join("".join(c if c.isalnum() else " " for c in text).split())


def read(folder: Path, name: str) -> list[Row]:
    """Rows of a parquet file; UserError when it is not there."""
    path = folder / name
    if not path.is_file():
        raise UserError(
            "no such data file", file=path, mend="Give the folder of the parquet files as --data."
        )
    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


def row(id_: str, source: str, task: str, turn: Turn, split: str | None = None) -> Row:
    """An Alpaca-shaped row."""
    out = {"id": id_, "source": source, "task": task, **turn._asdict()}
    return out if split is None else {**out, "split": split}


def gsm8k_turn(r: Row) -> Turn:
    """A GSM8K row as it stands."""
    return Turn(r["instruction"], r["input"], r["output"])


def sample(rows: list[Row], count: int, rng: random.Random) -> tuple[list[Row], list[Row]]:
    """`count` rows at random and the rest, both in their old order."""
    chosen = set(rng.sample(range(len(rows)), count))
    return [r for i, r in enumerate(rows) if i in chosen], [r for i, r in enumerate(rows) if i not in chosen]


def own_rows() -> list[Row]:
    """The handwritten rows."""
    with OWN_ROWS.open(encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def build_pool(gsm8k: list[Row], intents: dict[str, list[Row]]) -> list[Row]:
    """The quickstart's pool: GSM8K, both intent sources, handwritten and templated rows, shuffled."""
    rng = stream("pool")
    pool = [row(f"gsm8k-{i:04d}", "gsm8k", "gsm8k", gsm8k_turn(r)) for i, r in enumerate(gsm8k)]
    for source, rows in intents.items():
        for i, r in enumerate(rows):
            turn = intent_turn(source, r["text"], r["label"], rng)
            pool.append(row(f"{source}-{i:04d}", source, "intent", turn))
    for i, r in enumerate(own_rows()):
        turn = Turn(r["instruction"], r["input"], r["output"])
        pool.append(row(f"own-{i:04d}", "own", r["task"], turn))
    for i, (name, turn) in enumerate(templated(POOL_TEMPLATED, stream("pool-templated"))):
        pool.append(row(f"templated-{i:04d}", "templated", name, turn))
    rng.shuffle(pool)
    return pool


def build_target(gsm8k: list[Row]) -> list[Row]:
    """The quickstart's target: 120 GSM8K validation rows, 60 test rows."""
    rng, out = stream("target"), []
    for split, count in (("validation", 120), ("test", 60)):
        chosen, _ = sample([r for r in gsm8k if r["split"] == split], count, rng)
        out += [
            row(f"target-{split}-{i:03d}", "gsm8k", "gsm8k", gsm8k_turn(r), split)
            for i, r in enumerate(chosen)
        ]
    return out


def build_target_intent(banking: list[Row]) -> list[Row]:
    """The second target: 100 banking77 validation rows, 60 test rows, as instructions."""
    rng, out = stream("target-intent"), []
    for split, count in (("validation", 100), ("test", 60)):
        chosen, _ = sample([r for r in banking if r["split"] == split], count, rng)
        for i, r in enumerate(chosen):
            turn = intent_turn("banking77", r["text"], r["label"], rng)
            out.append(row(f"intent-{split}-{i:03d}", "banking77", "intent", turn, split))
    return out


def _groups(items: list[Any], key: str, size: int, rng: random.Random) -> Iterable[list[Any]]:
    """Lists of 1 to `size` rows that together use every row once; half share `key`, half are mixed.

    Related and unrelated neighbours both occur, so that an earlier example may or may not help.
    """
    by_key: dict[str, list[Any]] = defaultdict(list)
    for item in items:
        by_key[item[key]].append(item)
    related: list[Any] = []
    mixed: list[Any] = []
    for group in by_key.values():
        rng.shuffle(group)
        half = len(group) // 2
        related += group[:half]
        mixed += group[half:]
    rng.shuffle(mixed)
    for side in (related, mixed):
        start = 0
        while start < len(side):
            n = rng.randint(1, size)
            yield side[start : start + n]
            start += n


def _intent_texts(source: str, rows: list[Row], rng: random.Random) -> Iterable[str]:
    for group in _groups(rows, "label", 4, rng):
        if len(group) > 1 and rng.random() < 0.15:
            # Made-up codes can only be got from the earlier examples: they teach reading the context.
            code = {label: f"queue {rng.randint(10, 999)}" for label in sorted({r["label"] for r in group})}
            turns = [Turn("To which queue does this message go?", r["text"], code[r["label"]]) for r in group]
        else:
            turns = [intent_turn(source, r["text"], r["label"], rng) for r in group]
        if rng.random() < 0.1:
            yield "\n".join(f"{r['text']} -> topic: {label_words(r['label'])}" for r in group)
        else:
            yield chain(turns)


def _pair_texts(turns: list[Turn], rng: random.Random) -> Iterable[str]:
    """Every turn once: raw, alone under the template, or two in one text."""
    order = list(turns)
    rng.shuffle(order)
    k = 0
    while k < len(order):
        form = rng.random()
        if form < 0.15:
            yield f"{order[k].prompt}\n{order[k].output}"
        elif form < 0.5 or k + 1 == len(order):
            yield single(order[k])
        else:
            yield chain(order[k : k + 2])
            k += 1
        k += 1


def build_corpus(
    gsm8k: list[Row], intents: dict[str, list[Row]], snli: list[Row], held: set[str]
) -> list[Row]:
    """The training texts {source, text}, shuffled."""
    rng = stream("corpus")
    docs = [("gsm8k", t) for t in _pair_texts([gsm8k_turn(r) for r in gsm8k], rng)]
    for source, rows in intents.items():
        docs += [(source, t) for t in _intent_texts(source, rows, rng)]
    for group in _groups(snli, "premise", 3, rng):
        docs.append(
            ("snli", chain([snli_turn(r["premise"], r["hypothesis"], r["label"], rng) for r in group]))
        )
    own = [turn for _, turn in templated(CORPUS_TEMPLATED, stream("corpus-templated"))]
    own = [turn for turn in own if not contains(normalise(turn.prompt), held)]
    docs += [("templated", t) for t in _pair_texts(own, rng)]
    rng.shuffle(docs)
    return [{"source": s, "text": t} for s, t in docs]


def write_jsonl(path: Path, rows: list[Row]) -> None:
    """One JSON object a line; zstd level 19 when the name ends in .zst."""
    data = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zstandard.ZstdCompressor(level=19).compress(data) if path.suffix == ".zst" else data)
    print(f"{path.relative_to(ROOT)}: {len(rows)} rows, {path.stat().st_size / 1e6:.2f} MB")


def message(r: Row) -> str:
    """The text a row is about: GSM8K's question, or the message inside an intent instruction."""
    if r["input"]:
        return str(r["input"])
    text = str(r["instruction"])
    return text[text.index('"') + 1 : text.rindex('"')] if r["task"] == "intent" else text


def contains(haystack: str, needles: set[str]) -> bool:
    """Whether a normalised text has one of the normalised `needles` in it, whole words only."""
    padded = f" {haystack} "
    return any(f" {n} " in padded for n in needles)


def reserved(rows: Iterable[Row], *, shortest: int = 12) -> set[str]:
    """The rows' messages, normalised, that the corpus must not hold.

    Messages under `shortest` characters ("yes", "thank you") occur inside any prose: they are left out
    here, and `build` keeps them out of the corpus as whole messages only.
    """
    return {n for r in rows if len(n := normalise(message(r))) >= shortest}


def corpus_rows(rows: list[Row], field: str, held: set[str], whole: set[str]) -> list[Row]:
    """Rows that neither contain a text of `held` nor are one of `whole`, first copies only."""
    seen, kept = set(whole), []
    for r in rows:
        text = normalise(r[field])
        if text not in seen and not contains(text, held):
            kept.append(r)
        seen.add(text)
    return kept


def build(folder: Path) -> None:
    """Write the three data files and the corpus; RuntimeError when they overlap."""
    gsm8k = [r for r in read(folder, "instruct_pool.parquet") if r["source"] == "gsm8k"]
    held_out = read(folder, "instruct_target_gsm8k.parquet")
    snli = [r for r in read(folder, "snli_small.parquet") if r["split"] == "train"]
    banking = read(folder, "banking77.parquet")
    train = {
        "clinc150": [r for r in read(folder, "clinc150.parquet") if r["split"] == "train"],
        "banking77": [r for r in banking if r["split"] == "train"],
    }
    picks = stream("picks")
    pool_gsm8k, rest_gsm8k = sample(gsm8k, POOL_GSM8K, picks)
    pool_intents, rest = {}, {}
    for source, rows in train.items():
        pool_intents[source], rest[source] = sample(rows, POOL_INTENT, picks)
    pool = build_pool(pool_gsm8k, pool_intents)
    target, target_intent = build_target(held_out), build_target_intent(banking)

    shipped = [*pool, *target, *target_intent, *held_out]
    held, whole = reserved(shipped), {normalise(message(r)) for r in shipped}
    # The bank's whole test and validation parts stay unseen, so that they can serve as targets.
    whole |= {normalise(r["text"]) for r in banking if r["split"] != "train"}
    kept = {source: corpus_rows(rows, "text", held, whole) for source, rows in rest.items()}
    corpus = build_corpus(corpus_rows(rest_gsm8k, "instruction", held, whole), kept, snli, held)
    overlapping = overlap(corpus, held)
    if overlapping:
        raise RuntimeError(f"{len(overlapping)} held texts are in the corpus, the first: {overlapping[0]!r}")

    write_jsonl(OUT_DATA / "pool.jsonl", pool)
    write_jsonl(OUT_DATA / "target.jsonl", target)
    write_jsonl(OUT_DATA / "target_intent.jsonl", target_intent)
    write_jsonl(CORPUS, corpus)


def overlap(corpus: Iterable[Row], held: set[str]) -> list[str]:
    """Those of the normalised texts `held` that occur in the corpus, whole words only."""
    everything = "\n".join(f" {normalise(d['text'])} " for d in corpus)
    return sorted(n for n in held if f" {n} " in everything)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the parquet files")
    build(parser.parse_args().data)


if __name__ == "__main__":
    main()

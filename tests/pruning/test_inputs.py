"""Wrong input of a prune job: each message names file, row or field, and how to mend it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from nncift_core.config_prune import PruneConfig, load_prune_config, parse_prune_config
from nncift_core.errors import UserError
from nncift_core.pipeline.inputs import Input
from nncift_core.pruning.fit_for import check_settings
from nncift_core.pruning.inputs import labels_note, read_labelled_inputs, sources

Row = dict[str, Any]


def rows(n: int = 6, classes: str = "ab") -> list[Row]:
    return [{"text": f"text {k}", "label": classes[k % len(classes)]} for k in range(n)]


def others(n: int, classes: str = "ab") -> list[Row]:
    return [{**r, "text": f"other {r['text']}"} for r in rows(n, classes)]


def config(folder: Path, **sections: Any) -> PruneConfig:
    """The config of train.jsonl and test.jsonl in `folder`; `sections` change keys."""
    data = {"source": "train.jsonl", "test": "test.jsonl"} | sections.pop("data", {})
    return parse_prune_config({"data": data, **sections}, file="job.toml", base_dir=folder)


def write(folder: Path, train: list[Row] | None = None, test: list[Row] | None = None) -> None:
    write_jsonl(folder / "train.jsonl", rows() if train is None else train)
    write_jsonl(folder / "test.jsonl", others(4) if test is None else test)


def read(folder: Path, **sections: Any) -> list[Input]:
    return read_labelled_inputs(config(folder, **sections))


def refused(folder: Path, **sections: Any) -> UserError:
    with pytest.raises(UserError) as e:
        read(folder, **sections)
    return e.value


def test_right_input_is_read_in_its_roles(tmp_path):
    write(tmp_path)
    write_jsonl(tmp_path / "new.jsonl", rows(3))
    found = read(tmp_path, data={"new": "new.jsonl", "limit": 5, "limit_test": 2})
    assert [(i.role, len(i.examples)) for i in found] == [("train", 5), ("test", 2), ("new", 3)]
    assert len({i.fingerprint for i in found}) == 3


def test_one_class_is_nothing_to_tell_apart(tmp_path):
    write(tmp_path, rows(4, "a"))
    error = refused(tmp_path)
    assert "all rows to prune have the label 'a'" in error.what
    assert error.file == "train.jsonl" and "two classes" in error.mend and "data.columns" in error.mend


def test_a_class_of_a_single_row_is_named(tmp_path):
    write(tmp_path, [*rows(), {"text": "t", "label": "rare"}])
    error = refused(tmp_path)
    assert "a class needs at least two rows, and these have one: 'rare'" in error.what
    assert error.file == "train.jsonl" and "merge" in error.mend


def test_of_many_classes_of_a_single_row_five_are_named_and_the_others_counted(tmp_path):
    write(tmp_path, [*rows(), *({"text": "t", "label": f"rare {k}"} for k in range(8))])
    error = refused(tmp_path)
    assert "'rare 4' and 3 more classes" in error.what and "rare 5" not in error.what


def test_an_unlabelled_row_is_named_by_line(tmp_path):
    write(tmp_path, [*rows(), {"text": "t", "label": None}])
    error = refused(tmp_path)
    assert 'the row has no label (column "label")' in error.what
    assert (error.file, error.line) == ("train.jsonl", 7) and 'on_bad_rows = "drop"' in error.mend
    found = read(tmp_path, data={"on_bad_rows": "drop"})[0]
    assert (len(found.examples), len(found.report.dropped)) == (6, 1)


@pytest.mark.parametrize("role", ["test", "new"])
def test_a_label_that_no_row_to_prune_has_is_named_with_its_row(tmp_path, role):
    write(tmp_path)
    strange = [
        *rows(2),
        {"text": "t", "label": "lost"},
        {"text": "u", "label": "lost"},
        {"text": "v", "label": "x"},
    ]
    write_jsonl(tmp_path / f"{role}.jsonl", strange)
    error = refused(tmp_path, data={role: f"{role}.jsonl"})
    assert f"row 3 of the {role} rows has the label 'lost' (2 rows and 1 more labels)" in error.what
    assert error.file == f"{role}.jsonl" and "training rows that have them" in error.mend


def test_a_label_only_beyond_the_limit_is_missing_too(tmp_path):
    write(tmp_path, [*rows(4), {"text": "t", "label": "c"}, {"text": "u", "label": "c"}], others(3, "abc"))
    assert len(read(tmp_path)[0].examples) == 6
    assert "has the label 'c' (1 rows)" in refused(tmp_path, data={"limit": 4}).what


@pytest.mark.parametrize("name", ["text", "text_pair"])
def test_pair_columns_that_are_missing_are_named(tmp_path, name):
    write(tmp_path)
    error = refused(tmp_path, data={"columns": {"text": "text", "text_pair": "text", name: "hypothesis"}})
    assert f'wanted "hypothesis" (as {name})' in error.what and '"text", "label"' in error.what
    assert (error.file, error.line) == ("train.jsonl", 1) and "columns" in error.mend


def test_half_of_a_pair_is_named(tmp_path):
    write(tmp_path, [{"premise": "p", "label": "a"}, {"premise": "q", "label": "b"}])
    error = refused(tmp_path)
    assert '"premise" is half of a pair, but there is no "hypothesis"' in error.what
    assert error.file == "train.jsonl" and "text_pair" in error.mend


def pairs(n: int = 4) -> list[Row]:
    return [{"premise": f"p{k}", "hypothesis": f"h{k}", "label": "ab"[k % 2]} for k in range(n)]


@pytest.mark.parametrize("train_in_pairs", [True, False])
def test_pairs_beside_single_texts_are_refused(tmp_path, train_in_pairs):
    single = rows(4)
    write(tmp_path, *((pairs(), single) if train_in_pairs else (single, pairs())))
    error = refused(tmp_path)
    which = "pairs of texts" if train_in_pairs else "single texts"
    assert f"the rows to prune are {which}, the test rows are not" in error.what
    assert error.file == "test.jsonl" and "data.columns" in error.mend


@pytest.mark.parametrize(
    ("role", "why"), [("test", "no row is held out"), ("new", "the scores of its rows are measured")]
)
def test_the_split_that_is_trained_on_cannot_be_the_test_nor_new_rows(tmp_path, role, why):
    with pytest.raises(UserError) as e:
        config(tmp_path, data={"split": "train", "test": "dev", role: "train"})
    assert f"{role} names the split that is trained on: {why}" in str(e.value)
    assert (e.value.file, e.value.field) == ("job.toml", "data")


def test_rows_without_a_label_by_their_own_word_are_left_out_and_counted(tmp_path):
    numbers = [{"text": f"text {k}", "label": k % 3 - 1} for k in range(9)]
    write(tmp_path, numbers, [{"text": f"other {k}", "label": k % 2} for k in range(4)])
    given = read(tmp_path)
    assert 'data.unlabelled = ["-1"]' in labels_note(given) and len(given[0].examples) == 9
    assert "see data.unlabelled" in refused(tmp_path, data={"unlabelled": ["-1"]}).what
    found = read(tmp_path, data={"unlabelled": ["-1"], "on_bad_rows": "drop"})
    assert labels_note(found) == "" and {e.label for e in found[0].examples} == {"0", "1"}
    assert len(found[0].report.dropped) == 3
    assert found[0].fingerprint != read(tmp_path, data={"on_bad_rows": "drop"})[0].fingerprint
    write_jsonl(tmp_path / "train.jsonl", [r for r in numbers if r["label"] != -1])
    write_jsonl(tmp_path / "test.jsonl", [{"text": "other", "label": -1}])
    assert 'data.unlabelled = ["-1"]' in refused(tmp_path).mend


@pytest.mark.parametrize("source", ["train.jsonl", "./train.jsonl"])
def test_the_rows_to_prune_themselves_cannot_be_the_test(tmp_path, source):
    write(tmp_path)
    for role in ("test", "new"):
        error = refused(tmp_path, data={role: source})
        assert f"the {role} rows are read from the source of the rows to prune" in error.what
        assert (error.file, error.field) == (source, f"data.{role}") and "another split" in error.mend
    error = refused(tmp_path, data={"new": str(tmp_path / "train.jsonl"), "split": "train", "test": "dev"})
    assert error.field == "data.new", "whichever split is trained on, it is among all rows"


def test_test_rows_that_are_a_copy_of_rows_to_prune_are_refused(tmp_path):
    write(tmp_path, test=rows(4))
    error = refused(tmp_path)
    assert "all test rows are also among the rows to prune" in error.what
    assert (error.file, error.field) == ("test.jsonl", "data.test") and "held out" in error.mend
    write_jsonl(tmp_path / "test.jsonl", [*rows(2), {"text": "other", "label": "a"}])
    assert len(read(tmp_path)[1].examples) == 3


@pytest.mark.parametrize("role", ["test", "new"])
def test_a_split_to_test_on_wants_a_split_to_train_on(tmp_path, role):
    write(tmp_path)
    error = refused(tmp_path, data={role: "dev"})
    assert '"dev" is a split, but its rows are also among those to prune' in error.what
    assert error.field == f"data.{role}" and "data.split" in error.mend


def test_splits_of_one_source_are_told_apart_from_files(tmp_path):
    given = config(tmp_path, data={"split": "train", "test": "dev", "new": "more/new.jsonl", "limit": 3})
    found = [(role, r.source, r.split, r.limit) for role, r in sources(given)]
    assert found == [
        ("train", "train.jsonl", "train", 3), ("test", "train.jsonl", "dev", None),
        ("new", "more/new.jsonl", None, None),
    ]  # fmt: skip


def test_a_split_that_no_row_has_lists_those_that_exist(tmp_path):
    write(tmp_path, [{**r, "split": "train"} for r in rows()])
    error = refused(tmp_path, data={"split": "train", "test": "dev"})
    assert 'no row has the split "dev"; splits found: "train" (6)' in error.what


def test_a_source_that_is_not_there_is_named(tmp_path):
    write(tmp_path)
    assert refused(tmp_path, data={"test": "lost.jsonl"}).file == "lost.jsonl"
    assert "builtin:intents" in refused(tmp_path, data={"source": "builtin:intent"}).mend


def broken(folder: Path, **sections: Any) -> UserError:
    with pytest.raises(UserError) as e:
        config(folder, **sections)
    assert e.value.file == "job.toml"
    return e.value


@pytest.mark.parametrize(
    ("section", "key", "near"),
    [
        ("training", "epoch", "epochs"),
        ("scores", "run", "runs"),
        ("study", "seed", "seeds"),
        ("noise", "rate", "rates"),
        ("data", "limit_tests", "limit_test"),
    ],
)
def test_an_unknown_key_suggests_the_near_one(tmp_path, section, key, near):
    error = broken(tmp_path, **{section: {key: 3}})
    assert (error.what, error.field) == ("unknown key", f"{section}.{key}")
    assert error.mend == f'Did you mean "{near}"?'


def test_an_unknown_section_or_column_suggests_the_near_one(tmp_path):
    assert broken(tmp_path, studies={"seeds": 1}).mend == 'Did you mean "study"?'
    error = broken(tmp_path, data={"columns": {"labels": "x"}})
    assert (error.field, error.mend) == ("data.columns.labels", 'Did you mean "label"?')


@pytest.mark.parametrize("field", ["scores", "probabilistic"])
def test_a_studied_score_must_be_computed(tmp_path, field):
    error = broken(tmp_path, scores={"names": ["el2n", "aum"]}, study={field: ["aum", "tracin"]})
    assert "'tracin' is asked for, but scores.names lacks it: add it there" in error.what


def test_the_score_of_the_subset_must_be_computed(tmp_path):
    subset = {"score": "grand", "pruned_end": "easy", "prune": 0.3}
    assert "'grand' is asked for" in broken(tmp_path, scores={"names": ["el2n"]}, subset=subset).what


def test_where_none_of_the_usual_scores_is_computed_the_first_of_the_catalogue_is_studied(tmp_path):
    for names in (["tracin", "grand"], ["grand", "tracin"]):
        assert config(tmp_path, scores={"names": names}).studied == ["tracin"]
    assert config(tmp_path, scores={"names": ["tracin"]}, study={"scores": ["tracin"]}).studied == ["tracin"]


def test_of_the_usual_scores_those_that_are_computed_are_studied(tmp_path):
    assert config(tmp_path, scores={"names": ["aum", "el2n", "grand"]}).studied == ["el2n", "aum"]


def test_a_checked_config_is_accepted_again_as_the_flow_is_given_it(tmp_path):
    given = config(tmp_path, scores={"names": ["el2n", "aum"]})
    again = parse_prune_config(given.model_dump(mode="json"))
    assert again.studied == given.studied == ["el2n", "aum"] and again.drawn == []


def test_a_share_that_leaves_less_than_the_floors_is_refused(tmp_path):
    counts = Counter({"a": 50, "b": 50})
    given = config(tmp_path, study={"floor": 20, "prune": [0.5, 0.7]})
    with pytest.raises(UserError, match="leaves 30, and the floor of 20 rows of every class keeps 40"):
        check_settings(given, counts)
    check_settings(config(tmp_path, study={"floor": 20, "prune": [0.5]}), counts)


def test_too_few_looks_for_forgetting_and_too_few_checkpoints_for_vog_are_refused(tmp_path):
    counts = Counter({"a": 50, "b": 50})
    with pytest.raises(UserError, match="have 1 looks at all rows"):
        check_settings(config(tmp_path, scores={"forgetting_epochs": 1.0}), counts)
    one = config(tmp_path, training={"epochs": 1}, scores={"names": ["vog"]})
    with pytest.raises(UserError, match="VoG compares several"):
        check_settings(one, counts)


def test_vog_of_a_linear_head_on_a_frozen_encoder_is_refused(tmp_path):
    error = broken(tmp_path, training={"head": "linear"})
    assert "VoG says nothing" in error.what and 'training.head = "paper"' in error.what
    assert config(tmp_path, training={"head": "linear", "mode": "full"}).training.head == "linear"
    plain = config(tmp_path, training={"head": "linear"}, scores={"names": ["el2n", "tracin"]})
    assert plain.studied == ["el2n"]


@pytest.mark.parametrize("field", ["el2n_epoch", "forgetting_epochs", "pvi_epochs"])
def test_a_score_cannot_be_read_after_the_training(tmp_path, field):
    assert (
        "is beyond training.epochs = 3: lower it, train longer"
        in broken(tmp_path, training={"epochs": 3}, scores={field: 4}).what
    )


@pytest.mark.parametrize(
    ("section", "values", "field"),
    [
        ("study", {"prune": [0.5, 1.0]}, "study.prune.1"),
        ("study", {"prune": [0.5, 0.5]}, "study.prune"),
        ("study", {"scores": ["el2m"]}, "study.scores.0"),
        ("noise", {"kinds": []}, "noise.kinds"),
        ("training", {"epochs": 0}, "training.epochs"),
        ("scores", {"names": ["aum", "aum"]}, "scores.names"),
    ],
)
def test_a_wrong_value_is_named_by_its_field(tmp_path, section, values, field):
    assert broken(tmp_path, **{section: values}).field == field


def test_the_config_of_a_valuation_is_told_apart(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text('[pool]\nsource = "x"\n[target]\nsource = "y"\n')
    with pytest.raises(UserError, match="nncift run"):
        load_prune_config(path)
    path.write_text("[data\n")
    with pytest.raises(UserError, match="broken TOML"):
        load_prune_config(path)

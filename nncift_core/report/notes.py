"""What a person should hear of a run's facts, in the terminal and in the report alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Read after a number: "3 rows were dropped as bad (on_bad_rows)".
NOTES = {
    "dropped_rows": "rows were dropped as bad (on_bad_rows)",
    "duplicates": "rows repeat an earlier row; they stay rows and share its values",
    "truncated_sequences": "sequences did not fit the model's context and were cut",
    "truncated_examples": "rows were cut to the model's context for their exact values",
    "truncated_feature_rows": "rows were cut to the model's context for what estimators read of them",
    "truncated_warm_up_rows": "rows were cut to the model's context for the warm-up training",
    "label_pairs_gone": "labelled pairs have gone with their rows since the labels were drawn",
    "target_rows_not_read": "target rows were not read: this function values pool rows by themselves",
    "truncated_targets": "target rows alone do not fit the model's context",
    "truncated_texts": "texts were longer than the encoder's limit and were cut for embedding",
    "truncated_training_rows": "rows were cut to the student's context for training, over all its models",
    "truncated_prompts": "times a held-out prompt was cut to leave room for the answer",
    "rouge_clipped": "times ROUGE read only the beginning of a text",
    "test_rows_repeated": "held-out rows repeat another one's text; each text counts once",
    "truncated_rows": "times a held-out row was cut to the student's context",
    "truncated_queries": "times a query was cut to the student's context",
    "unfinished_answers": "generated answers were stopped at max_new_tokens",
    "empty_references": "times a reference had no letters a-z or digits, so its ROUGE is zero",
    "judge_failed": "answers got no grade from the judge; run again to ask for them",
    "judge_malformed": "grades of the judge could not be read",
    "choice_rows_left_out": "times a held-out row was no multiple choice",
    "icl_examples_dropped": "examples did not fit the context",
    "icl_rows_shown_themselves": "times a row had a held-out row's own prompt and was no example for it",
    "icl_rows_bare": "times a held-out row had no example in context",
    "judge_own_temperature": "answers were graded at the judge's own temperature: it refuses the one set",
    "test_rows_in_pool": "held-out rows are also in the pool: the comparison flatters whoever picks them",
    "test_rows_in_target": "held-out rows are also among the rows valued against",
    "test_rows_in_train": "test rows are also among the rows to prune: accuracy flatters",
    "same_text_other_label": "rows have a text that also stands under another label",
    "suspects_left_out": "more rows are predicted otherwise than labelled than suspects.csv lists",
    "exact_pairs_from_other_runs": "exact values beyond this run's own labels and audit come from other runs",
}

# Read as they stand, where the fact of that name is true.
FLAGS = {
    "labels_kept_from_earlier_run": ("labels and estimator of an earlier run were kept"),
    "state_kept_from_earlier_run": ("the function's preparation of an earlier run was kept"),
    "learning_pointless": (
        "exact values cost next to nothing here, so all were computed and nothing was learned"
    ),
    "exact_is_cheap": (
        "exact values of this function cost next to nothing: a label_fraction of one computes all"
    ),
}

# Texts of the run's own, told as they are.
TOLD = ("estimator_drift", "selection_note", "scores_note", "count_note")


def notes_of(facts: Mapping[str, Any]) -> list[str]:
    """The notes that the facts of a run call for, as plain text, numbers first."""
    counted = [f"{facts[fact]:,} {text}" for fact, text in NOTES.items() if facts.get(fact)]
    flags = [text for fact, text in FLAGS.items() if facts.get(fact)]
    return counted + flags + [facts[fact] for fact in TOLD if facts.get(fact)]

"""The preview of what is learned of a row, and the model card beside trained weights."""

from __future__ import annotations

from pathlib import Path

from finetune.small import PAIRS, ROWS, TINY, Trained, chat_student, job, rows_of
from huggingface_hub import ModelCard

from nncift_core.finetune import load_student_tokenizer, mask_preview, model_card
from nncift_core.language_models import LanguageModel


def test_a_preview_tells_read_tokens_from_learned_ones(tiny: LanguageModel) -> None:
    first, *rest = mask_preview(job(), ROWS)
    assert len(rest) == 2 and first.example_id == 1000
    read = "".join(t.text for t in first.tokens if not t.learned)
    learned = "".join(t.text for t in first.tokens if t.learned)
    assert read == f"Instruction: {PAIRS[0][0]}\nResponse: "
    assert learned == PAIRS[0][1] + tiny.tokenizer.decode([tiny.eos_id])
    assert (first.n_tokens, first.n_learned) == (
        len(first.tokens),
        sum(t.learned for t in first.tokens),
    )
    assert [t.position for t in first.tokens] == list(range(first.n_tokens))


def test_a_long_row_is_shown_around_its_border_and_at_its_end_alone() -> None:
    (row,) = mask_preview(job(), rows_of([("word " * 300, "answer " * 200)]))
    places = [t.position for t in row.tokens]
    border = row.n_tokens - row.n_learned
    assert len(places) == 48 + 48 + 16 < row.n_tokens
    assert places[0] == border - 48 and places[-1] == row.n_tokens - 1 and places[96] == row.n_tokens - 16
    assert row.to_json()["tokens"][0] == [border - 48, row.tokens[0].text, False]


def test_a_chat_row_shows_the_markers(tmp_path: Path) -> None:
    config = job(model=str(chat_student(tmp_path / "lm")), template="chat")
    (row,) = mask_preview(config, rows_of([("Hi", "there")]))
    assert "".join(t.text for t in row.tokens if t.learned) == "there<|im_end|>"
    assert row.tokens[0].text == "<|im_start|>" and load_student_tokenizer(config).template == "chat"


def test_the_card_is_one_the_hub_can_read_and_leaves_the_licence_to_the_user(trained: Trained) -> None:
    config = job(template="a | b {prompt}")
    text = model_card(config, trained[0], ROWS.content_hashes, subset="selected", seed=3, key="k", run="r1")
    card = ModelCard(text, ignore_metadata_errors=False)
    assert card.data.library_name == "peft" and card.data.tags == ["nncift", "fine-tuned", "lora"]
    # A folder of this machine is no model of the hub.
    assert card.data.license is None and card.data.base_model is None
    assert str(TINY.parent) not in text and "| student | tiny-lm |" in text and "| run | r1 |" in text
    assert "| subset | selected, seed 3 |" in text and r"a \| b {prompt}" in text
    assert f"| training rows | {len(ROWS)} (digest of their contents: " in text
    assert ", ".join(f"{loss:.4f}" for loss in trained[0].losses) in text


def test_the_card_changes_with_the_rows(trained: Trained) -> None:
    def made(hashes: tuple[str, ...]) -> str:
        return model_card(job(), trained[0], hashes, subset="selected", seed=0, key="k")

    assert made(ROWS.content_hashes) == made(ROWS.content_hashes[::-1]) != made(ROWS.content_hashes[1:])

"""Fine-tuning a student language model on chosen rows: adapters or all weights, response-only loss.

The loss of an optimiser step is the mean of -log p(y_t | prompt, y_<t) over all response tokens of its
rows, the end-of-sequence token included. Sequences follow the token rule of `nncift_core.sequences`.
Importing this package imports neither torch nor peft: keys and counts are asked for while planning.
"""

from nncift_core.finetune.card import model_card
from nncift_core.finetune.gpus import training_devices
from nncift_core.finetune.masks import MaskedRow, mask_preview
from nncift_core.finetune.methods import Diverged
from nncift_core.finetune.rows import Encoded, TrainingRows, encode, prompt_ids
from nncift_core.finetune.start import fine_tune
from nncift_core.finetune.student import (
    MODEL_SHAPE,
    MODEL_WEIGHTS,
    SHAPE,
    WEIGHTS,
    check_method,
    fine_tune_key,
    load_fine_tuned,
    load_student,
    load_student_tokenizer,
    settings,
    student,
    student_is_local,
    student_key,
    student_name,
)
from nncift_core.finetune.training import FineTuned

__all__ = [
    "MODEL_SHAPE",
    "MODEL_WEIGHTS",
    "SHAPE",
    "WEIGHTS",
    "Diverged",
    "Encoded",
    "FineTuned",
    "MaskedRow",
    "TrainingRows",
    "check_method",
    "encode",
    "fine_tune",
    "fine_tune_key",
    "load_fine_tuned",
    "load_student",
    "load_student_tokenizer",
    "mask_preview",
    "model_card",
    "prompt_ids",
    "settings",
    "student",
    "student_is_local",
    "student_key",
    "student_name",
    "training_devices",
]

"""Fine-tuning a student language model on chosen rows: LoRA adapters, response-only loss.

The loss of an optimiser step is the mean of -log p(y_t | prompt, y_<t) over all response tokens of its
rows, the end-of-sequence token included. Sequences follow the token rule of `nncift_core.sequences`.
Importing this package imports neither torch nor peft: keys and counts are asked for while planning.
"""

from nncift_core.finetune.process import fine_tune
from nncift_core.finetune.rows import Encoded, TrainingRows, encode
from nncift_core.finetune.student import (
    SHAPE,
    WEIGHTS,
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
    "SHAPE",
    "WEIGHTS",
    "Encoded",
    "FineTuned",
    "TrainingRows",
    "encode",
    "fine_tune",
    "fine_tune_key",
    "load_fine_tuned",
    "load_student",
    "load_student_tokenizer",
    "settings",
    "student",
    "student_is_local",
    "student_key",
    "student_name",
]

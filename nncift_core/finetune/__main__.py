"""`python -m nncift_core.finetune SPEC RESULT`: one fine-tune in a process of its own (see `process`)."""

import sys

from nncift_core.finetune.process import child

if __name__ == "__main__":
    sys.exit(child(*sys.argv[1:]))

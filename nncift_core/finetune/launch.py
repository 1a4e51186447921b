"""`python -m nncift_core.finetune.launch ARGS`: torch's launcher, which ends with its parent.

One that waits for other hosts would outlive a parent that was killed, and answer for it when they come.
"""

import sys
import threading

from nncift_core.finetune.process import end_with_parent

if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    from torch.distributed.run import main

    main(sys.argv[1:])

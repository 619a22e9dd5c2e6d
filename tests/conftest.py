"""One thread a process: the workers share the cores, and threads that wait for a core spin."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; subprocesses inherit it

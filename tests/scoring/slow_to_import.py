"""A module that takes its time; what `unruly.SlowImport` imports."""

import time

time.sleep(0.6)
VALUE = 1

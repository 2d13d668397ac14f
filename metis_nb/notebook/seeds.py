"""The seeds of episodes that nobody gave one."""

import random

# A generator of its own, so that playing leaves the reader's alone; `metis_nb.seed` seeds it.
generator = random.Random()

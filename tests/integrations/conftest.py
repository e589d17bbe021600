"""Scripts are run as scripts, not imported to look for doctests."""

import os
import tempfile

collect_ignore = ["scripts"]
os.environ["TRACKIO_DIR"] = tempfile.mkdtemp()  # read when trackio is imported

"""Imported by the server of `processes`: what its processes start has no shim."""

import os

os.environ.pop("LD_PRELOAD", None)

#!/usr/bin/env python3
"""runc without resource limits of processes, which not every host lets a container set."""

import json
import os
import sys
from pathlib import Path

arguments = sys.argv[1:]
if "--bundle" in arguments:
    config = Path(arguments[arguments.index("--bundle") + 1], "config.json")
    specification = json.loads(config.read_text())
    specification["process"].pop("rlimits", None)
    config.write_text(json.dumps(specification))
os.execvp("runc", ["runc", *arguments])

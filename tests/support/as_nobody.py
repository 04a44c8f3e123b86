"""The command line as another user, for whom it may lack rights. Needs root. Never part of the program.

Run as `python as_nobody.py serve --config FILE`, copied beside a copy of the package that the other user may read, for
its data are read later. Code is imported before the change: the interpreter may lie where the other user may not enter.
"""

import importlib
import os
import pkgutil

import relay
from relay.cli import main
from relay.config import load
from relay.store.sqlite import migrate

NOBODY = 65534

if __name__ == "__main__":
    for module in pkgutil.walk_packages(relay.__path__, "relay."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    importlib.import_module("uvloop")
    load(None, {}, {})  # imports more, as reading the schema does
    migrate.steps()
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    main()

"""Send the runs that W&B logged offline to its server.

    python scripts/wandb_sync.py --runs runs      (make wandb-sync)

Needs a login made beforehand (`wandb login`, or WANDB_API_KEY) and a network; what was sent once is
passed over. WANDB_BASE_URL names another server.
"""

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from pd_finetune.errors import UserError
from pd_finetune.records.wandb_login import has_login

_CONNECT_SECONDS = 5.0


def unsynced(runs: Path) -> list[Path]:
    """Offline folders below a folder of run directories that were not sent yet.

    W&B leaves `<file>.synced` beside a file that it has sent.
    """
    logs = sorted(runs.glob("*/wandb/offline-run-*/*.wandb"))
    return [log.parent for log in logs if not log.with_name(f"{log.name}.synced").exists()]


def check_server() -> None:
    """Refuse to start without a login or a server that answers.

    Raises:
        UserError: there is none.
    """
    if not has_login():
        raise UserError("W&B knows no login here: run `wandb login`, or set WANDB_API_KEY")
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai")
    port = server.port or (80 if server.scheme == "http" else 443)
    proxy = urlsplit(os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or "")
    host, port = (proxy.hostname, proxy.port or 80) if proxy.hostname else (server.hostname, port)
    try:
        socket.create_connection((host or "", port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"no connection to {server.hostname} ({error}): nothing was sent, the runs stay where "
            "they are; try again with a network"
        ) from None


def main() -> int:
    """Send all folders, one after the other; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    folders = unsynced(options.runs)
    if not folders:
        print(f"nothing to send: no offline W&B run below '{options.runs}' that was not sent yet")
        return 0
    try:
        check_server()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = []
    for number, folder in enumerate(folders, 1):
        print(f"{number} of {len(folders)}: {folder.parent.parent.name}", flush=True)
        done = subprocess.run([sys.executable, "-m", "wandb", "sync", str(folder)])
        if done.returncode:
            failed.append(folder)
    for folder in failed:
        print(f"error: not sent: {folder}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

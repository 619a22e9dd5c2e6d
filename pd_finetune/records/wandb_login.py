"""Whether W&B knows who we are: asked without W&B, which would prompt or warn."""

import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit


def has_login() -> bool:
    """Whether there is an API key in `WANDB_API_KEY` or where `wandb login` keeps it, a netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname
    home = Path.home() / ("_netrc" if os.name == "nt" else ".netrc")
    try:
        return netrc.netrc(os.environ.get("NETRC") or home).authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False

"""Synapse's archive by its own client, where the user has both the client and a token."""

from __future__ import annotations

import os
from pathlib import Path

from cgs.errors import SuiteError

TOKEN = "SYNAPSE_AUTH_TOKEN"
ENTITY = "syn3379050"
"""Abdomen/RawData.zip of the project syn3193805."""


def raw_data(folder: Path) -> Path | None:
    """Fetch RawData.zip into `folder`; None where no token is set.

    Raises SuiteError with one sentence where the client is missing or Synapse refuses.
    """
    token = os.environ.get(TOKEN)
    if not token:
        return None
    try:
        import synapseclient
        from synapseclient.core.exceptions import SynapseError
    except ImportError:
        raise SuiteError(
            f"{TOKEN} is set but synapseclient is not installed; pip install synapseclient, or give the path of "
            "RawData.zip."
        ) from None
    try:
        client = synapseclient.Synapse(silent=True)
        client.login(authToken=token, silent=True)
        folder.mkdir(parents=True, exist_ok=True)
        entity = client.get(ENTITY, downloadLocation=str(folder), ifcollision="overwrite.local")
    except (SynapseError, OSError, ValueError) as error:
        said = " ".join(str(error).replace(token, "***").split())
        raise SuiteError(
            f"Synapse gave no {ENTITY} ({said}); check {TOKEN} and that your account has accepted the terms of "
            "syn3193805, or download RawData.zip by hand and give its path."
        ) from None
    if not entity.path:
        raise SuiteError(f"Synapse gave no file for {ENTITY}; accept the terms of syn3193805 and try again.")
    return Path(entity.path)
